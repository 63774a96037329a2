"""Cut dead channels out of a network for good: a plain module with small weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from sparsebench.execution.base import Masks
from sparsebench.execution.channel_graph import is_depthwise
from sparsebench.execution.channel_network import ChannelNetwork, positions
from sparsebench.execution.liveness import Conv, named
from sparsebench.execution.stand_ins import StandIns


class FixedSum(nn.Module):
    """Add two tensors that hold different subsets of the same channels.

    Args:
        one: places of the first tensor's channels in the sum; None = it holds all.
        two: the same for the second.
        size: channels of the sum.
    """

    def __init__(self, one: Tensor | None, two: Tensor | None, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("one", one, persistent=False)
        self.register_buffer("two", two, persistent=False)

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        """Return the sum on the union of channels."""
        return self._spread(one, self.one) + self._spread(two, self.two)

    def _spread(self, part: Tensor, among: Any) -> Tensor:
        if among is None:
            return part
        return part.new_zeros(part.shape[0], self.size, *part.shape[2:]).index_copy(1, among, part)


@torch.no_grad()
def shrink(network: ChannelNetwork, masks: Masks) -> nn.Module:
    """Return the network without its dead channels, as a module of its own.

    Layers keep their names and are plain small layers, so that the ``state_dict`` has the usual keys. Where no residual
    sum needs the places of channels, the module is of the class of the original; else it is a ``torch.fx.GraphModule``.

    Args:
        network: structure and weights.
        masks: channels that live.
    """
    live = network.live(masks)
    found, tensors = live.rounded, network.small(live)
    _, twin = network.graph()
    small = copy.deepcopy(network.module if twin is None else twin)
    layers = named(small)
    for name in (*found.layers, *found.norms):
        _cut(layers[name], name, tensors)
    for name, (one, two, both) in found.sums.items():
        among = next(live for live in (both, one, two) if live is not None)
        among = torch.ones_like(among) if both is None else among
        size, device = int(among.sum()), network.device
        small.set_submodule(f"_{name}", FixedSum(positions(one, among, device), positions(two, among, device), size))
    return small


def removable(network: ChannelNetwork) -> dict[str, Tensor]:
    """Find the channels that are zero in every activation: weights, bias and whatever the norms behind them add.

    A layer whose dead channels the norm turns into constants stays whole.
    """
    masks = {name: torch.ones(width, dtype=torch.bool) for name, width in network.units.items()}
    for name in masks:
        layer: Any = network.modules[name]
        live = layer.weight.detach().reshape(len(masks[name]), -1).abs().sum(dim=1) > 0
        if layer.bias is not None:
            live |= layer.bias.detach() != 0
        if not bool(live.any()):
            live[0] = True
        trial = {**masks, name: live.cpu()}
        if _silent(network, trial):
            masks = trial
    return masks


def _silent(network: ChannelNetwork, masks: Masks) -> bool:
    """Tell whether norms leave dead channels at zero."""
    for name, live in network.exact(masks).norms.items():
        norm: Any = network.modules[name]
        added = [tensor for tensor in (norm.weight, norm.bias) if tensor is not None]
        if not added or any(bool(tensor.detach().cpu()[~live].count_nonzero()) for tensor in added):
            return False
    return True


def _cut(layer: Any, name: str, small: StandIns) -> None:
    """Give a copied layer its small tensors and the widths that fit them."""
    for kind in ("weight", "bias"):
        tensor = small.tensors.get(f"{name}.{kind}")
        if tensor is not None:
            setattr(layer, kind, Parameter(tensor.detach().clone()))
    for kind in ("running_mean", "running_var"):
        if f"{name}.{kind}" in small.tensors:
            setattr(layer, kind, small.tensors[f"{name}.{kind}"].detach().clone())
    if isinstance(layer, Conv):
        layer.out_channels = layer.weight.shape[0]
        layer.groups = layer.out_channels if is_depthwise(layer) else layer.groups
        layer.in_channels = layer.weight.shape[1] * layer.groups
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    else:
        layer.num_features = next(len(t) for t in (layer.weight, layer.running_mean) if t is not None)
