"""Building blocks shared by the networks: bias-free convolutions and initialisation."""

from torch import nn

from sparsebench.functional.initial import LAWS, draw_
from sparsebench.runs.messages import check_choice


def conv3x3(inputs: int, outputs: int, *, stride: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution with padding 1 and no bias: the batch norm after it has one."""
    return nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)


def conv1x1(inputs: int, outputs: int, *, stride: int = 1) -> nn.Conv2d:
    """Return a pointwise convolution without bias."""
    return nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False)


def initialise_(network: nn.Module, *, linear_std: float | None = None) -> None:
    """Draw convolution weights from the Kaiming normal distribution (fan-out) and set batch norms to the identity.

    Args:
        network: changed in place; draws from torch's global generator in order of definition.
        linear_std: standard deviation of a normal distribution for linear weights, whose biases become zero; ``None``
            keeps torch's own initialisation of linear layers.

    Source: He et al. 2015, "Delving Deep into Rectifiers", section 2.2 (backward form).
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Linear) and linear_std is not None:
            nn.init.normal_(layer.weight, std=linear_std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def draw_linear_(network: nn.Module, law: str) -> None:
    """Draw the weights of linear layers, and of convolutions except under ``kaiming``, by a named distribution.

    ``kaiming`` draws linear weights from N(0, 2 / fan_in) with zero biases and does not change convolutions; ``torch``
    keeps torch's draws for both, U(+-1 / sqrt(fan_in)), including biases; the others are as in
    :func:`sparsebench.functional.initial.draw_`, with zero biases.

    Args:
        network: changed in place; draws from torch's global generator in order of definition.
        law: one of ``LAWS``.

    Raises:
        ValueError: for an unknown distribution.
    """
    check_choice("initial", law, LAWS)
    kinds = nn.Linear if law == "kaiming" else (nn.Linear, nn.Conv2d)
    for layer in network.modules():
        if not isinstance(layer, kinds) or law == "torch":
            continue
        draw_(layer.weight, "he" if law == "kaiming" else law)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def check_image(network: str, shape: tuple[int, int, int], *, least: int) -> None:
    """Raise ``ValueError`` if a side of the image is shorter than ``least`` pixels."""
    if min(shape[1:]) < least:
        raise ValueError(
            f"{network} needs images of at least {least} x {least} pixels, got {shape[1]} x {shape[2]}: "
            "choose a data set with larger images or another model (digits_cnn and mlp take any size)"
        )
