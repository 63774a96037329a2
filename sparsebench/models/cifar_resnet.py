"""The 6n + 2 layer ResNets for CIFAR (He et al. 2016, section 4.2): ResNet-20, -32, -56."""

from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from sparsebench.models.layers import conv3x3, initialise_
from sparsebench.models.resnet import BasicBlock, Shortcut, project_always, projection, stage, zero_residual_


class PadShortcut(nn.Module):
    """Take every ``stride``-th pixel and append zero channels: no parameters, no multiplications (option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.extra = outputs - inputs
        self.stride = stride

    def forward(self, stream: Tensor) -> Tensor:
        """Return the stream at the resolution and width of the next stage."""
        thinned = stream[:, :, :: self.stride, :: self.stride]
        return functional.pad(thinned, (0, 0, 0, 0, 0, self.extra))


def pad(inputs: int, outputs: int, stride: int) -> nn.Module | None:
    """Return the parameter-free shortcut if the shape changes, otherwise None."""
    return None if stride == 1 and inputs == outputs else PadShortcut(inputs, outputs, stride)


SHORTCUTS: dict[str, Shortcut] = {"projection": projection, "pad": pad, "everywhere": project_always}


class CifarResNet(nn.Module):
    """Three stages of ``n`` basic blocks of width 16, 32, 64.

    Args:
        depth: number of layers, 6n + 2.
        classes: number of outputs.
        shape: channels, height, width of one image.
        width: factor on all widths (2 gives the doubled ResNet-32 of VR-PGE and ProbMask).
        shortcut: ``projection`` = 1x1 convolution with batch norm where the shape changes; ``pad`` = zeros appended
            instead, as in the paper; ``everywhere`` = 1x1 convolution with batch norm in every block.
        zero_init_residual: start each block as the identity (last batch norm weight 0).

    Raises:
        ValueError: for a width that leaves no channel, or an unknown ``shortcut``.
    """

    def __init__(
        self,
        depth: int,
        *,
        classes: int,
        shape: tuple[int, int, int],
        width: float = 1,
        shortcut: str = "projection",
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()
        if shortcut not in SHORTCUTS:
            raise ValueError(f"shortcut {shortcut!r} is unknown: allowed are {', '.join(SHORTCUTS)}")
        if not width >= 1 / 16:
            raise ValueError(f"width must be at least 1/16, which leaves one channel in the first stage, got {width!r}")
        assert depth % 6 == 2
        narrow, middle, wide = (round(base * width) for base in (16, 32, 64))
        blocks = partial(stage, BasicBlock, count=(depth - 2) // 6, shortcut=SHORTCUTS[shortcut])
        self.conv1 = conv3x3(shape[0], narrow)
        self.bn1 = nn.BatchNorm2d(narrow)
        self.relu = nn.ReLU()
        self.layer1 = blocks(narrow, narrow)
        self.layer2 = blocks(narrow, middle, stride=2)
        self.layer3 = blocks(middle, wide, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(wide, classes)
        initialise_(self)
        if zero_init_residual:
            zero_residual_(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores ``[batch, classes]`` for ``images [batch, channels, height, width]``."""
        stream = self.relu(self.bn1(self.conv1(images)))
        stream = self.layer3(self.layer2(self.layer1(stream)))
        return self.fc(self.avgpool(stream).flatten(1))
