"""Wide residual networks for CIFAR (Zagoruyko and Komodakis 2016): pre-activation blocks, 6n + 4 layers."""

from torch import Tensor, nn

from sparsebench.models.layers import conv1x1, conv3x3, initialise_


class WideBlock(nn.Module):
    """Norm, ReLU, convolution, twice; a plain 1x1 convolution is the shortcut if the channels change.

    The 1x1 shortcut reads the normalised and rectified stream; an identity shortcut reads the stream itself.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.conv1 = conv3x3(inputs, outputs, stride=stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv2 = conv3x3(outputs, outputs)
        changes = stride != 1 or inputs != outputs
        self.shortcut = conv1x1(inputs, outputs, stride=stride) if changes else None

    def forward(self, stream: Tensor) -> Tensor:
        """Return the stream after this block."""
        active = self.relu1(self.bn1(stream))
        kept = stream if self.shortcut is None else self.shortcut(active)
        change = self.dropout(self.relu2(self.bn2(self.conv1(active))))
        return self.conv2(change) + kept


class WideResNet(nn.Module):
    """Three stages of ``n`` blocks of width 16k, 32k, 64k after a stem of width 16.

    Args:
        depth: number of layers, 6n + 4.
        widen: the factor k.
        classes: number of outputs.
        shape: channels, height, width of one image.
        dropout: probability of a zero between the two convolutions of a block.

    Raises:
        ValueError: for a dropout outside [0, 1).
    """

    def __init__(
        self, depth: int, widen: int, *, classes: int, shape: tuple[int, int, int], dropout: float = 0.0
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {dropout!r}")
        assert depth % 6 == 4
        count = (depth - 4) // 6
        self.conv1 = conv3x3(shape[0], 16)
        self.layer1 = _stage(16, 16 * widen, count=count, dropout=dropout)
        self.layer2 = _stage(16 * widen, 32 * widen, count=count, stride=2, dropout=dropout)
        self.layer3 = _stage(32 * widen, 64 * widen, count=count, stride=2, dropout=dropout)
        self.bn = nn.BatchNorm2d(64 * widen)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64 * widen, classes)
        initialise_(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores ``[batch, classes]`` for ``images [batch, channels, height, width]``."""
        stream = self.layer3(self.layer2(self.layer1(self.conv1(images))))
        return self.fc(self.avgpool(self.relu(self.bn(stream))).flatten(1))


def _stage(inputs: int, outputs: int, *, count: int, dropout: float, stride: int = 1) -> nn.Sequential:
    first = WideBlock(inputs, outputs, stride=stride, dropout=dropout)
    return nn.Sequential(first, *(WideBlock(outputs, outputs, dropout=dropout) for _ in range(count - 1)))
