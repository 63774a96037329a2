"""VGG in its CIFAR form (Simonyan and Zisserman 2015): 3x3 convolutions with batch norm and one linear layer."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from sparsebench.models.layers import check_image, conv3x3, initialise_

WIDTHS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # per stage of equal resolution


class VGG(nn.Module):
    """Five stages of convolutions with a max-pool between them, a global average and a linear layer.

    Layers are named as in the tables of the sparse-training papers: ``features.conv0``, ..., ``fc``.

    Args:
        depth: 11, 16 or 19 (layers of the original network, which had three linear layers).
        classes: number of outputs.
        shape: channels, height, width of one image; at least 16 x 16 pixels.
        width: factor on all widths; at least 1/64, which leaves one channel in the first stage.

    Raises:
        ValueError: for a width that leaves no channel.
    """

    def __init__(self, depth: int, *, classes: int, shape: tuple[int, int, int], width: float = 1) -> None:
        super().__init__()
        check_image(f"vgg{depth}", shape, least=16)
        if not width >= 1 / WIDTHS[0]:
            raise ValueError(f"width must be at least 1/64, which leaves one channel in the first stage, got {width!r}")
        widths = [round(base * width) for base in WIDTHS]
        self.features = _features(shape[0], widths, CONVOLUTIONS[depth])
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[-1], classes)
        initialise_(self, linear_std=0.01)

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores ``[batch, classes]`` for ``images [batch, channels, height, width]``."""
        return self.fc(self.pool(self.features(images)).flatten(1))


def _features(channels: int, widths: Sequence[int], convolutions: Sequence[int]) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    number = 0
    for stage, (width, count) in enumerate(zip(widths, convolutions, strict=True)):
        if stage:
            layers[f"pool{stage}"] = nn.MaxPool2d(2)
        for _ in range(count):
            layers[f"conv{number}"] = conv3x3(channels, width)
            layers[f"bn{number}"] = nn.BatchNorm2d(width)
            layers[f"relu{number}"] = nn.ReLU()
            channels, number = width, number + 1
    return nn.Sequential(layers)
