"""Layers that store their active weights only: weight, gradient and moments cost in proportion to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsebench.execution.direct.functions import conv2d_values, linear_values
from sparsebench.execution.direct.support import support_of
from sparsebench.execution.direct.walk import Pair


class _Stored(nn.Module):
    """A layer of active values only; its ``state_dict`` equals the dense layer's, real zeros included."""

    values: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, layer: nn.Linear | nn.Conv2d, mask: Tensor) -> None:
        super().__init__()
        self.support = support_of(mask)
        self.values = nn.Parameter(self.support.values(layer.weight.detach()).clone())
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone())

    @torch.no_grad()
    def set_mask(self, mask: Tensor, optimizer: Optimizer | None = None) -> None:
        """Adopt another mask: values that stay active keep their moments, new ones start at zero without any.

        Args:
            mask: bool, shape of the weight.
            optimizer: its moments (every state tensor of the values' shape) are carried over.

        Raises:
            ValueError: the mask has another shape.
        """
        if tuple(mask.shape) != self.support.shape or mask.dtype != torch.bool:
            raise ValueError(
                f"the mask is {mask.dtype} of shape {tuple(mask.shape)}: bool of {self.support.shape} is needed"
            )
        before, self.support = self.support, support_of(mask)
        moments: dict[str, Any] = optimizer.state.get(self.values, {}) if optimizer is not None else {}
        for key, moment in moments.items():
            if isinstance(moment, Tensor) and moment.shape == self.values.shape:
                moments[key] = self.support.values(before.scatter(moment))
        self.values.data = self.support.values(before.scatter(self.values.detach()))
        self.values.grad = None

    @property
    def weight(self) -> Tensor:
        """A copy of the whole weight, including zeros."""
        return self.support.scatter(self.values.detach())

    def extra_repr(self) -> str:
        """Describe the layer with its number of active weights."""
        total = torch.Size(self.support.shape).numel()
        return f"{self.support.shape}, {self.support.count} of {total} weights active, bias={self.bias is not None}"

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)  # pyright: ignore[reportUnknownMemberType]
        destination[prefix + "weight"] = self.support.scatter(destination.pop(prefix + "values").detach())

    def _load_from_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, state_dict: dict[str, Any], prefix: str, *rest: Any
    ) -> None:
        own = dict(state_dict)
        if prefix + "weight" in own:
            weight = own.pop(prefix + "weight")
            lost = int(weight.count_nonzero()) - int(self.support.values(weight).count_nonzero())
            if lost:
                errors = cast(list[str], rest[-1])
                errors.append(
                    f"{prefix}weight has {lost} weights outside this layer's mask: set the mask of these weights first"
                )
            own[prefix + "values"] = self.support.values(weight)
        super()._load_from_state_dict(own, prefix, *rest)  # pyright: ignore[reportUnknownMemberType]
        missing, unexpected = cast(list[str], rest[-3]), cast(list[str], rest[-2])
        missing[:] = [name if name != prefix + "values" else prefix + "weight" for name in missing]
        unexpected[:] = [name for name in unexpected if name != prefix + "weight"]


class SparseLinear(_Stored):
    """A linear layer that stores its active weights only.

    Args:
        layer: the layer to replace; its tensors are copied.
        mask: bool, shape of the layer's weight.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Multiply: (..., in features) -> (..., out features)."""
        return linear_values(x, self.values, self.support, self.bias)


class SparseConv2d(_Stored):
    """A convolution of one group that stores its active weights only.

    Args:
        layer: the layer to replace; its tensors are copied.
        mask: bool, shape of the layer's weight.
    """

    def __init__(self, layer: nn.Conv2d, mask: Tensor) -> None:
        super().__init__(layer, mask)
        self.stride = cast(Pair, layer.stride)
        self.padding = cast(Pair, layer.padding)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve: (images, channels, rows, columns) -> (images, out channels, rows, columns)."""
        return conv2d_values(x, self.values, self.support, self.bias, self.stride, self.padding)


def refusal(layer: nn.Module) -> str | None:
    """Return why the kernels cannot compute a layer, or None if they can."""
    if type(layer) is nn.Linear:
        return None
    if type(layer) is not nn.Conv2d:
        return f"is a {type(layer).__name__}"
    if layer.groups != 1:
        return f"has {layer.groups} groups"
    if layer.dilation != (1, 1):
        return f"has dilation {layer.dilation}"
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        return f"has padding {layer.padding!r} of mode {layer.padding_mode!r}"
    return None


def store_active(network: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Replace, in place, the layers of masked weights by layers that store their active weights only.

    For training with fixed masks, and for inference. Create the optimizer afterwards, over ``network.parameters()``.

    Args:
        network: changed in place.
        masks: bool, by parameter name, such as ``features.0.weight``.

    Returns:
        The network.

    Raises:
        ValueError: a mask's layer is unknown, or of an unsupported kind; the network is not changed in that case.
    """
    layers: dict[str, nn.Module] = dict(network.named_modules())  # pyright: ignore[reportUnknownArgumentType]
    for name in masks:
        owner, _, leaf = name.rpartition(".")
        if owner not in layers or leaf != "weight" or not owner:
            raise ValueError(
                f"masks[{name!r}] does not belong to a layer of this network: give masks by name of the weight"
            )
        if reason := refusal(layers[owner]):
            raise ValueError(
                f"{owner} {reason}: only linear layers and convolutions of one group can be stored sparsely"
            )
    for name, mask in masks.items():
        path = name.rpartition(".")[0]
        layer = layers[path]
        new = SparseLinear(layer, mask) if isinstance(layer, nn.Linear) else SparseConv2d(cast(nn.Conv2d, layer), mask)
        network.set_submodule(path, new)
    return network
