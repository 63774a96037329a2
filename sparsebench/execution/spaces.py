"""Which channels of each tensor can be other than zero, given channel masks on some layers.

One rule makes slicing exact: **a dead channel is zero everywhere**. A mask over the outputs of a convolution or linear
layer makes weight rows and bias zero; each batch norm multiplies scale and shift by the set of live channels of its
input, so the mask acts after the norm and a dead channel does not turn into a constant. Sums live on the union of their
sets. Whatever mixes channels, or does not map zero to zero, must see all channels; else the layer is refused by name.

The network is traced once with ``torch.fx``; the rules below then carry sets of channels along the graph.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

Conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

ZERO_STAYS = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.ELU, nn.Hardswish, nn.Tanh,
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
)  # fmt: skip
ZERO_STAYS_FUNCTIONS: tuple[Any, ...] = (
    torch.relu, functional.relu, functional.gelu, functional.silu, functional.leaky_relu, functional.dropout,
    functional.adaptive_avg_pool2d, functional.avg_pool2d,
)  # fmt: skip
ZERO_STAYS_METHODS = ("relu", "relu_", "contiguous", "clone", "float", "to")
SUMS: tuple[Any, ...] = (operator.add, operator.iadd, torch.add)


@dataclass(frozen=True)
class Space:
    """The channels in which a tensor can be other than zero.

    Attributes:
        live: bool [channels], or the probability of each channel to be live; None = all, nothing is known or needed.
        flat: whether the positions of an image are laid out behind each channel in one axis.
        sources: masked layers whose outputs are summed in this tensor, channel by channel.
    """

    live: Tensor | None = None
    flat: bool = False
    sources: frozenset[str] = frozenset()


ALL = Space()


@dataclass
class Spaces:
    """Sets of live channels at each place that matters.

    Attributes:
        layers: layer name -> (outputs, inputs); None = all of them.
        norms: batch norm name -> its channels.
        sums: node name -> (first summand, second summand, their union).
        pads: nodes that append zero channels, which a small network leaves out.
        ties: pairs of masked layers whose outputs are summed.
        summed: masked layers whose outputs enter a sum.
    """

    layers: dict[str, tuple[Tensor | None, Tensor | None]] = field(default_factory=dict)
    norms: dict[str, Tensor] = field(default_factory=dict)
    sums: dict[str, tuple[Tensor | None, Tensor | None, Tensor | None]] = field(default_factory=dict)
    pads: set[str] = field(default_factory=set)
    ties: set[frozenset[str]] = field(default_factory=set)
    summed: set[str] = field(default_factory=set)


def trace(module: nn.Module) -> fx.Graph:
    """Trace the forward pass of a module in its present mode; layers of ``torch.nn`` are single nodes.

    Raises:
        ValueError: the forward pass depends on values, so that no graph describes it.
    """
    try:
        return fx.Tracer().trace(module)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{type(module).__name__} cannot be made smaller: torch.fx cannot trace it ({reason})"
        ) from error


def spaces(graph: fx.Graph, modules: Mapping[str, nn.Module], masks: Mapping[str, Tensor]) -> Spaces:
    """Carry masks along a graph.

    Args:
        graph: what ``trace`` returned.
        modules: modules of the traced network by name.
        masks: layer name -> bool [outputs], on the CPU; probabilities give expected sets for independent masks.

    Raises:
        ValueError: a masked layer, or one that reads masked channels, cannot be sliced.
    """
    walk = _Walk(modules, masks)
    known: dict[fx.Node, Space] = {}
    for node in graph.nodes:
        known[node] = walk.visit(node, [known[n] for n in node.all_input_nodes])
    return walk.found


def union(one: Tensor | None, two: Tensor | None) -> Tensor | None:
    """Return the channels that are live in one or the other; for probabilities, of independent events."""
    if one is None or two is None:
        return None
    return one | two if one.dtype == torch.bool else one + two - one * two


class _Walk:
    """The rules. Each takes a node and the spaces of its inputs, and returns the space of its output."""

    def __init__(self, modules: Mapping[str, nn.Module], masks: Mapping[str, Tensor]) -> None:
        self.modules, self.masks = modules, masks
        self.found = Spaces()

    def visit(self, node: fx.Node, inputs: list[Space]) -> Space:
        if node.op == "call_module":
            return self._module(str(node.target), self.modules[str(node.target)], inputs)
        if node.op == "call_function" and node.target in SUMS or (node.op, node.target) == ("call_method", "add"):
            return self._sum(node, inputs)
        if node.op == "output" and any(space.live is not None for space in inputs):
            _refuse("the output", f"reads masked channels of {_names(inputs)}: exclude the last layer from masking")
        if all(space.live is None for space in inputs):
            return ALL
        return self._function(node, inputs)

    def _module(self, name: str, layer: nn.Module, inputs: list[Space]) -> Space:
        space = inputs[0]
        if isinstance(layer, Conv):
            return self._convolution(name, layer, space)
        if isinstance(layer, nn.Linear):
            return self._linear(name, layer, space)
        if name in self.masks:
            _refuse(name, f"a mask over the outputs of {type(layer).__name__} has no rule")
        if space.live is None:
            return ALL
        if isinstance(layer, _BatchNorm) and len(space.live) == layer.num_features:
            self._once(name, self.found.norms)
            self.found.norms[name] = space.live
            return space
        if isinstance(layer, nn.Flatten) and (layer.start_dim, layer.end_dim) == (1, -1):
            return Space(space.live, True, space.sources)
        if isinstance(layer, ZERO_STAYS) and not (space.flat and "Pool" in type(layer).__name__):
            return space
        return _refuse(name, _reason(layer))

    def _convolution(self, name: str, layer: Any, space: Space) -> Space:
        own = self.masks.get(name)
        if space.flat and space.live is not None:
            _refuse(name, "it reads flattened channels")
        if layer.groups == 1:
            return self._layer(name, own, space.live)
        depthwise = layer.groups == layer.in_channels == layer.out_channels
        if own is not None:
            kind = "a depthwise" if depthwise else "a grouped"
            _refuse(name, f"{kind} convolution is tied to its inputs and has no mask of its own: exclude it")
        if space.live is not None and not depthwise:
            _refuse(
                name, f"a convolution in {layer.groups} groups reads masked channels, which would leave them uneven"
            )
        if space.live is not None:
            self._layer(name, space.live, space.live)
        return space

    def _linear(self, name: str, layer: nn.Linear, space: Space) -> Space:
        live = space.live
        if live is not None:
            positions, rest = divmod(layer.in_features, len(live))
            if not space.flat or rest:
                _refuse(name, "a linear layer reads masked channels that are not flattened in front of it")
            live = live.repeat_interleave(positions)
        after = self._layer(name, self.masks.get(name), live)
        return Space(after.live, after.live is not None, after.sources)

    def _layer(self, name: str, out: Tensor | None, live: Tensor | None) -> Space:
        if out is not None or live is not None:
            self._once(name, self.found.layers)
            self.found.layers[name] = (out, live)
        return ALL if out is None else Space(out, False, frozenset([name]))

    def _once(self, name: str, seen: Mapping[str, Any]) -> None:
        if name in seen:
            _refuse(name, "it is called more than once")

    def _sum(self, node: fx.Node, inputs: list[Space]) -> Space:
        partial = [space for space in inputs if space.live is not None]
        if not partial:
            return ALL
        if len(node.args) != 2 or node.kwargs or not all(isinstance(arg, fx.Node) for arg in node.args):
            _refuse(node.name, "a number is added to masked channels, which would not stay zero")
        one, two = inputs if len(inputs) == 2 else (inputs[0], inputs[0])
        if one.flat != two.flat and len(partial) == 2:
            _refuse(node.name, "a flattened tensor is added to one that is not")
        if len(partial) == 2 and len(cast(Tensor, one.live)) != len(cast(Tensor, two.live)):
            _refuse(node.name, "tensors of different numbers of channels are added")
        live = union(one.live, two.live)
        self.found.sums[node.name] = (one.live, two.live, live)
        sources = one.sources | two.sources
        self.found.summed |= sources
        self.found.ties |= {frozenset((a, b)) for a in one.sources for b in two.sources if a != b}
        return ALL if live is None else Space(live, one.flat, sources)

    def _function(self, node: fx.Node, inputs: list[Space]) -> Space:
        space, target = inputs[0], node.target
        rule = _RULES.get(target)
        if rule is not None:
            return rule(self, node, inputs)
        if node.op == "call_method" and target in ZERO_STAYS_METHODS:
            return space
        if node.op == "call_function" and target in ZERO_STAYS_FUNCTIONS:
            return space
        called = getattr(target, "__name__", target)
        return _refuse(node.name, f"{called} has no rule for the masked channels of {_names(inputs)}")


def _flatten(walk: _Walk, node: fx.Node, inputs: list[Space]) -> Space:
    del walk
    positions = (*node.args[1:], *node.kwargs.values())
    if positions not in ((1,), (1, -1)):
        _refuse(node.name, "only flatten(1) keeps channels apart")
    return Space(inputs[0].live, True, inputs[0].sources)


def _mean(walk: _Walk, node: fx.Node, inputs: list[Space]) -> Space:
    del walk
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    if not isinstance(dims, list | tuple) or sorted(cast(Any, dims)) not in ([2, 3], [-2, -1]):
        _refuse(node.name, "only a mean over height and width keeps channels apart")
    keeps = bool(node.kwargs.get("keepdim", node.args[2] if len(node.args) > 2 else False))
    return Space(inputs[0].live, not keeps, inputs[0].sources)


def _getitem(walk: _Walk, node: fx.Node, inputs: list[Space]) -> Space:
    del walk
    index: Any = node.args[1]
    whole = slice(None)
    if not isinstance(index, tuple) or len(cast(Any, index)) < 2 or index[1] != whole:
        _refuse(node.name, "indexing picks among masked channels")
    return inputs[0]


def _pad(walk: _Walk, node: fx.Node, inputs: list[Space]) -> Space:
    width: Any = node.args[1] if len(node.args) > 1 else node.kwargs["pad"]
    mode, value = (*node.args[2:], "constant", None)[:2] if len(node.args) > 2 else ("constant", None)
    value = node.kwargs.get("value", value)
    if node.kwargs.get("mode", mode) != "constant" or value or inputs[0].flat or not isinstance(width, list | tuple):
        _refuse(node.name, "only zeros may be padded to masked channels")
    sizes = [int(size) for size in cast(Any, width)]
    if len(sizes) <= 4:
        return inputs[0]
    if len(sizes) != 6 or any(sizes[:4]):
        _refuse(node.name, "padding of channels and of positions in one call")
    walk.found.pads.add(node.name)
    live = cast(Tensor, inputs[0].live)
    return Space(torch.cat([live.new_zeros(sizes[4]), live, live.new_zeros(sizes[5])]))


def _cat(walk: _Walk, node: fx.Node, inputs: list[Space]) -> Space:
    del walk
    tensors: Any = node.args[0]
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    if dim != 1 or len(tensors) != len(inputs) or any(space.live is None or space.flat for space in inputs):
        _refuse(node.name, "only whole channels that are all masked may be joined")
    return Space(torch.cat([cast(Tensor, space.live) for space in inputs]))


_RULES: dict[Any, Callable[[_Walk, fx.Node, list[Space]], Space]] = {
    torch.flatten: _flatten, "flatten": _flatten, torch.mean: _mean, "mean": _mean,
    operator.getitem: _getitem, functional.pad: _pad, torch.cat: _cat,
}  # fmt: skip


def _reason(layer: nn.Module) -> str:
    kind = type(layer).__name__
    if isinstance(layer, nn.GroupNorm | nn.LayerNorm | nn.InstanceNorm2d | nn.RMSNorm):
        return f"{kind} mixes channels or shifts them by constants of its own, so a smaller network is another network"
    return f"{kind} has no rule: it may mix channels or turn zeros into other values"


def _names(inputs: list[Space]) -> str:
    return ", ".join(sorted({name for space in inputs for name in space.sources})) or "masked layers"


def _refuse(name: str, reason: str) -> NoReturn:
    raise ValueError(
        f"channels cannot be removed around {name}: {reason}; leave the layers before it dense (prunable.exclude) or "
        f"mask single weights (method.level=weight)"
    )
