"""Small networks for quick experiments: multilayer perceptrons, LeNet-5, and a convolutional net for 8x8 digits."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from sparsebench.models.layers import check_image, conv3x3, draw_linear_, initialise_


class MLP(nn.Module):
    """Linear layers with ReLU between them, on the flattened image.

    Args:
        classes: number of outputs.
        shape: channels, height, width of one image.
        hidden: widths of the hidden layers; empty gives a linear classifier.
        initial: how weights are drawn, see :func:`sparsebench.models.layers.draw_linear_`.
        dropout: share of hidden units dropped in training after every ReLU; 0 for none.
        batch_norm: normalise before every ReLU.
        norm_outputs: normalise the class scores too.

    Raises:
        ValueError: for a width below 1, an unknown distribution, or a share outside [0, 1).
    """

    def __init__(
        self,
        *,
        classes: int,
        shape: tuple[int, int, int],
        hidden: Sequence[int] = (128, 128),
        initial: str = "kaiming",
        dropout: float = 0.0,
        batch_norm: bool = False,
        norm_outputs: bool = False,
    ) -> None:
        super().__init__()
        if any(width < 1 or width != int(width) for width in hidden):
            raise ValueError(f"hidden widths must be whole numbers of at least 1, got {list(hidden)}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout:g} is impossible: choose a share of hidden units in [0, 1)")
        widths = [math.prod(shape), *(int(width) for width in hidden)]
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        for number, (inputs, outputs) in enumerate(pairwise(widths), start=1):
            layers[f"fc{number}"] = nn.Linear(inputs, outputs)
            if batch_norm:
                layers[f"norm{number}"] = nn.BatchNorm1d(outputs)
            layers[f"relu{number}"] = nn.ReLU()
            if dropout:
                layers[f"drop{number}"] = nn.Dropout(dropout)
        self.features = nn.Sequential(layers)
        self.fc = nn.Linear(widths[-1], classes)
        if norm_outputs:
            self.norm = nn.BatchNorm1d(classes)
        self.norm_outputs = norm_outputs
        draw_linear_(self, initial)

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores ``[batch, classes]`` for ``images [batch, channels, height, width]``."""
        scores = self.fc(self.features(images))
        return self.norm(scores) if self.norm_outputs else scores


class LeNet300(MLP):
    """LeNet-300-100 (LeCun et al. 1998): two hidden layers of 300 and 100 units.

    Args:
        classes: number of outputs.
        shape: channels, height, width of one image.
        initial: how weights are drawn, see :func:`sparsebench.models.layers.draw_linear_`.
        batch_norm: normalise before every ReLU.
        norm_outputs: normalise the class scores too.
    """

    def __init__(
        self,
        *,
        classes: int,
        shape: tuple[int, int, int],
        initial: str = "kaiming",
        batch_norm: bool = False,
        norm_outputs: bool = False,
    ) -> None:
        super().__init__(
            classes=classes,
            shape=shape,
            hidden=(300, 100),
            initial=initial,
            batch_norm=batch_norm,
            norm_outputs=norm_outputs,
        )


class LeNet5(nn.Module):
    """LeNet-5 in the 20-50-500 form of Caffe, with a ReLU after every hidden layer as in the pruning papers.

    Two 5x5 convolutions, each followed by a max-pool, and two linear layers. Widths of 64, 64 and 128 give the network
    ``cnn_fashion`` of Bungert et al. 2022.

    Args:
        classes: number of outputs.
        shape: channels, height, width of one image; at least 16 x 16 pixels (made for 28 x 28).
        first: channels of the first convolution.
        second: channels of the second convolution.
        hidden: units of the hidden linear layer.
        initial: how weights are drawn, see :func:`sparsebench.models.layers.draw_linear_`.

    Raises:
        ValueError: for a width below 1, or an unknown distribution.
    """

    def __init__(
        self,
        *,
        classes: int,
        shape: tuple[int, int, int],
        first: int = 20,
        second: int = 50,
        hidden: int = 500,
        initial: str = "kaiming",
    ) -> None:
        super().__init__()
        check_image("LeNet-5 (lenet5, cnn_fashion)", shape, least=16)
        if min(first, second, hidden) < 1:
            raise ValueError(f"widths must be whole numbers of at least 1, got {first}, {second} and {hidden}")
        height, width = (((side - 4) // 2 - 4) // 2 for side in shape[1:])
        self.conv1 = nn.Conv2d(shape[0], first, kernel_size=5)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(first, second, kernel_size=5)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(second * height * width, hidden)
        self.relu3 = nn.ReLU()
        self.fc = nn.Linear(hidden, classes)
        initialise_(self)
        draw_linear_(self, initial)

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores ``[batch, classes]`` for ``images [batch, channels, height, width]``."""
        stream = self.pool1(self.relu1(self.conv1(images)))
        stream = self.pool2(self.relu2(self.conv2(stream)))
        return self.fc(self.relu3(self.fc1(self.flatten(stream))))


class DigitsCNN(nn.Module):
    """Three 3x3 convolutions with batch norm, made for the embedded 8x8 digits; trains in seconds on one core.

    Args:
        classes: number of outputs.
        shape: channels, height, width of one image; at least 2 x 2 pixels.
        width: channels of the first convolution; the others have twice as many.

    Raises:
        ValueError: for a width below 1.
    """

    def __init__(self, *, classes: int, shape: tuple[int, int, int], width: int = 32) -> None:
        super().__init__()
        check_image("digits_cnn", shape, least=2)
        if width < 1:
            raise ValueError(f"width must be a whole number of at least 1, got {width!r}")
        self.conv1, self.bn1, self.relu1 = conv3x3(shape[0], width), nn.BatchNorm2d(width), nn.ReLU()
        self.conv2, self.bn2, self.relu2 = conv3x3(width, 2 * width), nn.BatchNorm2d(2 * width), nn.ReLU()
        self.maxpool = nn.MaxPool2d(2)
        self.conv3, self.bn3, self.relu3 = conv3x3(2 * width, 2 * width), nn.BatchNorm2d(2 * width), nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2 * width, classes)
        initialise_(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores ``[batch, classes]`` for ``images [batch, channels, height, width]``."""
        stream = self.relu1(self.bn1(self.conv1(images)))
        stream = self.maxpool(self.relu2(self.bn2(self.conv2(stream))))
        stream = self.relu3(self.bn3(self.conv3(stream)))
        return self.fc(self.avgpool(stream).flatten(1))
