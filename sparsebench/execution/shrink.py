"""Remove dead channels from a network permanently: the result is a plain module with small weights."""

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
        one: positions of the first tensor's channels in the sum; None = it has all.
        two: the same for the second.
        size: number of channels of the sum.
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
    """Return a new module without the dead channels of the network.

    Layers keep their names and are plain small layers, so that the ``state_dict`` has the usual keys. If a residual sum
    needs the positions of channels, the result is a ``torch.fx.GraphModule``; otherwise it has the class of the
    original.

    Args:
        network: structure and weights.
        masks: live channels.
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


def nonzero_filters(network: ChannelNetwork) -> dict[str, Tensor]:
    """Return the channels with a non-zero weight or bias in their layer: bool, by unit."""
    found: dict[str, Tensor] = {}
    for name, width in network.units.items():
        layer: Any = network.modules[name]
        live: Tensor = layer.weight.detach().reshape(width, -1).count_nonzero(dim=1) > 0
        if layer.bias is not None:
            live = live | (layer.bias.detach() != 0)
        found[name] = live.cpu()
    return found


def removable(network: ChannelNetwork) -> dict[str, Tensor]:
    """Return masks of the channels that must stay: those that are non-zero in at least one activation.

    A filter of zeros stays if a norm after it turns it into a constant that other layers read; each layer keeps at
    least one channel.
    """
    masks = {name: live if bool(live.any()) else live.index_fill(0, torch.tensor([0]), True)
             for name, live in nonzero_filters(network).items()}  # fmt: skip
    while True:
        grown = _with_constants(network, masks)
        if all(torch.equal(grown[name], mask) for name, mask in masks.items()):
            return masks
        masks = grown


def _with_constants(network: ChannelNetwork, masks: Masks) -> dict[str, Tensor]:
    """Add channels that norms turn into constants; keep whole layers if channels have been reordered."""
    found, grown = network.exact(masks), dict(masks)
    for name, live in found.norms.items():
        constant = _constants(network.modules[name]) & ~live
        if not bool(constant.any()):
            continue
        sources = sorted(found.sources[name])
        alike = [source for source in sources if len(masks[source]) == len(constant)]
        helped = any(bool((constant & ~masks[source]).any()) for source in alike)
        for source in alike if helped else sources:
            grown[source] = grown[source] | (constant if helped else torch.ones_like(grown[source]))
    return grown


def _constants(norm: Any) -> Tensor:
    """Return the channels in which a norm maps zero to another value."""
    added = [tensor.detach().cpu() != 0 for tensor in (norm.weight, norm.bias) if tensor is not None]
    return torch.stack(added).any(dim=0) if added else torch.ones(norm.num_features, dtype=torch.bool)


def _cut(layer: Any, name: str, small: StandIns) -> None:
    """Replace the tensors of a copied layer by its small ones, and set the matching widths."""
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
