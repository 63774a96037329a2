"""Second moments of the inputs that linear and convolution layers multiply by their weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@torch.no_grad()
def input_moments(
    network: nn.Module, names: Iterable[str], batches: Iterable[Any], *, diagonal: bool = False
) -> dict[str, Tensor]:
    """Return ``X X^T`` of each layer, a column of X being the inputs of one output at one place.

    Args:
        network: in the mode in which it shall run.
        names: of weights.
        batches: inputs of the network.
        diagonal: only the squared norms of the inputs.

    Returns:
        By name of weight, in float64, [groups, d, d] or [groups, d]: d is the product of the weight's dimensions but
        the first, groups is 1 but for grouped convolutions. Zeros for a layer that is never called.

    Raises:
        ValueError: a weight of another kind of layer.
    """
    found: dict[str, Tensor] = {}
    hooks: list[Any] = []
    for name in names:
        layer, weight = layer_of(network, name), network.get_parameter(name)
        size, groups = weight[0].numel(), getattr(layer, "groups", 1)
        shape = (groups, size) if diagonal else (groups, size, size)
        found[name] = torch.zeros(shape, dtype=torch.float64, device=weight.device)
        hooks.append(layer.register_forward_pre_hook(_adder(found[name], diagonal)))
    with _removing(hooks):
        for images in batches:
            network(images)
    return found


def layer_of(network: nn.Module, name: str) -> nn.Linear | nn.Conv2d:
    """Return the layer of a weight.

    Raises:
        ValueError: it is of a kind whose inputs are not known.
    """
    layer = network.get_submodule(name.rpartition(".")[0])
    if isinstance(layer, nn.Linear | nn.Conv2d) and name.rpartition(".")[2] == "weight":
        return layer
    raise ValueError(
        f"{name} belongs to a {type(layer).__name__}, and only inputs of Linear and Conv2d are known here: leave it "
        f"dense with prunable.exclude=[{name}], or choose recipe=obert, cap or oneshot"
    )


def _adder(total: Tensor, diagonal: bool) -> Callable[..., None]:
    def add(layer: nn.Linear | nn.Conv2d, given: tuple[Tensor, ...]) -> None:
        """Add the moments of one batch."""
        x = columns(layer, given[0]).double()
        total.add_((x**2).sum(dim=2) if diagonal else x @ x.transpose(1, 2))

    return add


def columns(layer: nn.Linear | nn.Conv2d, x: Tensor) -> Tensor:
    """Return the inputs of a layer as [groups, d, samples and places]."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1]).T[None]
    padded = functional.pad(x, _padding(layer), mode=_mode(layer))
    places = functional.unfold(padded, layer.kernel_size, dilation=layer.dilation, stride=layer.stride)  # pyright: ignore
    parts = places.reshape(len(x), layer.groups, -1, places.shape[2])
    return parts.permute(1, 2, 0, 3).flatten(2)


def _padding(layer: nn.Conv2d) -> list[int]:
    """Return the padding as ``functional.pad`` wants it: last dimension first, before and after."""
    sides: list[int] = []
    for place in (1, 0):
        if isinstance(layer.padding, str):
            whole = layer.dilation[place] * (layer.kernel_size[place] - 1) if layer.padding == "same" else 0
            sides += [whole // 2, whole - whole // 2]
        else:
            sides += [int(layer.padding[place])] * 2
    return sides


def _mode(layer: nn.Conv2d) -> str:
    return "constant" if layer.padding_mode == "zeros" else layer.padding_mode


@contextlib.contextmanager
def _removing(hooks: list[Any]) -> Generator[None]:
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
