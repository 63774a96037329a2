"""ResNet-18 and ResNet-50 (He et al. 2016) with the ImageNet or the CIFAR stem.

Parameter names equal torchvision's, so that weights can be exchanged. The code differs from torchvision's in two ways
that do not change the function: every ReLU is a separate module, so that a monitor sees each activation, and none works
in place, so that the output that a hook saw after a batch norm stays unchanged.
"""

from collections.abc import Callable

from torch import Tensor, nn

from sparsebench.models.layers import conv1x1, conv3x3, initialise_

Shortcut = Callable[[int, int, int], nn.Module | None]  # channels in, channels out, stride -> module; None = identity


def projection(inputs: int, outputs: int, stride: int) -> nn.Module | None:
    """Return a 1x1 convolution with batch norm if the shape changes, otherwise None (option B)."""
    return None if stride == 1 and inputs == outputs else project_always(inputs, outputs, stride)


def project_always(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Return a 1x1 convolution with batch norm (option C)."""
    return nn.Sequential(conv1x1(inputs, outputs, stride=stride), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut; the first has the stride."""

    expansion = 1

    def __init__(self, inputs: int, width: int, *, stride: int = 1, shortcut: Shortcut = projection) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, width, stride=stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(inputs, width, stride)
        self.relu2 = nn.ReLU()

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """Return the batch norm before the addition."""
        return self.bn2

    def forward(self, stream: Tensor) -> Tensor:
        """Return the stream after this block."""
        kept = stream if self.downsample is None else self.downsample(stream)
        change = self.relu1(self.bn1(self.conv1(stream)))
        return self.relu2(self.bn2(self.conv2(change)) + kept)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut; the 3x3 has the stride (the form known as v1.5)."""

    expansion = 4

    def __init__(self, inputs: int, width: int, *, stride: int = 1, shortcut: Shortcut = projection) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = conv1x1(inputs, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = conv3x3(width, width, stride=stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = conv1x1(width, outputs)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = shortcut(inputs, outputs, stride)
        self.relu3 = nn.ReLU()

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """Return the batch norm before the addition."""
        return self.bn3

    def forward(self, stream: Tensor) -> Tensor:
        """Return the stream after this block."""
        kept = stream if self.downsample is None else self.downsample(stream)
        change = self.relu1(self.bn1(self.conv1(stream)))
        change = self.relu2(self.bn2(self.conv2(change)))
        return self.relu3(self.bn3(self.conv3(change)) + kept)


Block = type[BasicBlock] | type[Bottleneck]
BLOCKS: dict[int, tuple[Block, tuple[int, ...]]] = {18: (BasicBlock, (2, 2, 2, 2)), 50: (Bottleneck, (3, 4, 6, 3))}
STEMS = ("auto", "cifar", "imagenet")
CIFAR_UP_TO = 64  # pixels: from there on the ImageNet stem leaves enough resolution


class ResNet(nn.Module):
    """Four stages of residual blocks of width 64, 128, 256, 512.

    Args:
        depth: 18 (basic blocks) or 50 (bottlenecks).
        classes: number of outputs.
        shape: channels, height, width of one image.
        stem: ``imagenet`` = 7x7 with stride 2 and a max-pool; ``cifar`` = 3x3 with stride 1 and no pool;
            ``auto`` = cifar for images of up to 64 pixels.
        fc_bias: whether the classifier has a bias; ``auto`` = with the ImageNet stem (torchvision), without it
            with the CIFAR stem (the networks of the sparse-training papers).
        zero_init_residual: start each block as the identity (last batch norm weight 0).

    Raises:
        ValueError: for an unknown ``stem`` or ``fc_bias``.
    """

    def __init__(
        self,
        depth: int,
        *,
        classes: int,
        shape: tuple[int, int, int],
        stem: str = "auto",
        fc_bias: bool | str = "auto",
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()
        if stem not in STEMS:
            raise ValueError(f"stem {stem!r} is unknown: allowed are {', '.join(STEMS)}")
        if fc_bias not in ("auto", True, False):
            raise ValueError(f"fc_bias {fc_bias!r} is unknown: allowed are auto, true, false")
        imagenet = stem == "imagenet" or (stem == "auto" and max(shape[1:]) > CIFAR_UP_TO)
        block, counts = BLOCKS[depth]
        if imagenet:
            self.conv1 = nn.Conv2d(shape[0], 64, kernel_size=7, stride=2, padding=3, bias=False)
        else:
            self.conv1 = conv3x3(shape[0], 64)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1) if imagenet else nn.Identity()
        self.layer1 = stage(block, 64, 64, count=counts[0])
        self.layer2 = stage(block, 64 * block.expansion, 128, count=counts[1], stride=2)
        self.layer3 = stage(block, 128 * block.expansion, 256, count=counts[2], stride=2)
        self.layer4 = stage(block, 256 * block.expansion, 512, count=counts[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512 * block.expansion, classes, bias=imagenet if fc_bias == "auto" else bool(fc_bias))
        initialise_(self)
        if zero_init_residual:
            zero_residual_(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores ``[batch, classes]`` for ``images [batch, channels, height, width]``."""
        stream = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        stream = self.layer4(self.layer3(self.layer2(self.layer1(stream))))
        return self.fc(self.avgpool(stream).flatten(1))


def stage(
    block: Block, inputs: int, width: int, *, count: int, stride: int = 1, shortcut: Shortcut = projection
) -> nn.Sequential:
    """Return ``count`` blocks of equal width; the first changes resolution and channels."""
    blocks = [block(inputs, width, stride=stride, shortcut=shortcut)]
    outputs = width * block.expansion
    blocks += [block(outputs, width, shortcut=shortcut) for _ in range(count - 1)]
    return nn.Sequential(*blocks)


def zero_residual_(network: nn.Module) -> None:
    """Set the last batch norm weight of every block to zero (Goyal et al. 2017, section 5.1)."""
    for layer in network.modules():
        if isinstance(layer, BasicBlock | Bottleneck):
            nn.init.zeros_(layer.last_norm.weight)
