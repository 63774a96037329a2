"""Registry of the networks that are built by name."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from sparsebench.models.cifar_resnet import CifarResNet
from sparsebench.models.from_timm import build_timm
from sparsebench.models.resnet import ResNet
from sparsebench.models.small import MLP, DigitsCNN, LeNet5, LeNet300
from sparsebench.models.vgg import VGG
from sparsebench.models.wide_resnet import WideResNet
from sparsebench.runs.messages import did_you_mean

TIMM = "timm:"
NETWORKS: dict[str, tuple[Callable[..., nn.Module], dict[str, int]]] = {  # name -> class, arguments fixed by the name
    "cnn_fashion": (LeNet5, {"first": 64, "second": 64, "hidden": 128}),
    "digits_cnn": (DigitsCNN, {}),
    "lenet300": (LeNet300, {}),
    "lenet5": (LeNet5, {}),
    "mlp": (MLP, {}),
    "resnet18": (ResNet, {"depth": 18}),
    "resnet20": (CifarResNet, {"depth": 20}),
    "resnet32": (CifarResNet, {"depth": 32}),
    "resnet50": (ResNet, {"depth": 50}),
    "resnet56": (CifarResNet, {"depth": 56}),
    "vgg11": (VGG, {"depth": 11}),
    "vgg16": (VGG, {"depth": 16}),
    "vgg19": (VGG, {"depth": 19}),
    "wrn22_2": (WideResNet, {"depth": 22, "widen": 2}),
    "wrn28_2": (WideResNet, {"depth": 28, "widen": 2}),
    "wrn28_10": (WideResNet, {"depth": 28, "widen": 10}),
}


def names() -> list[str]:
    """Return the names that :func:`build` knows, apart from timm's."""
    return list(NETWORKS)


def build(name: str, *, classes: int, shape: tuple[int, int, int] = (3, 32, 32), **options: Any) -> nn.Module:
    """Build the network called ``name`` with fresh weights, drawn from torch's global generator.

    Args:
        name: one of :func:`names`, or ``timm:`` and the name of a timm model.
        classes: number of outputs.
        shape: channels, height, width of one image.
        **options: options of that network, for example ``width`` of ``resnet20`` or ``stem`` of ``resnet50``.

    Raises:
        ValueError: for an unknown name or option, or numbers out of range.
    """
    if name.startswith(TIMM):
        return build_timm(name.removeprefix(TIMM), classes=classes, shape=shape, **options)
    if name not in NETWORKS:
        raise ValueError(
            f"model {name!r} is unknown{did_you_mean(name, names())}: allowed are {', '.join(names())}, "
            f"and {TIMM}NAME for any model of timm"
        )
    if classes < 1:
        raise ValueError(f"classes must be a whole number of at least 1, got {classes!r}")
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"shape must be channels, height, width, each at least 1, got {tuple(shape)}")
    network, fixed = NETWORKS[name]
    _check_options(name, options)
    channels, height, width = shape
    return network(**fixed, classes=classes, shape=(channels, height, width), **options)


def _check_options(name: str, options: dict[str, Any]) -> None:
    network, fixed = NETWORKS[name]
    allowed = [option for option in inspect.signature(network).parameters if option not in {*fixed, "classes", "shape"}]
    for option in options:
        if option not in allowed:
            raise ValueError(
                f"model {name} has no option {option!r}{did_you_mean(option, allowed)}: allowed are "
                f"{', '.join(allowed) or 'none'}"
            )
