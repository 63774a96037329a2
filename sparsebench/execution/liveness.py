"""Find the channels of each tensor that can be non-zero, given channel masks on part of the layers.

One rule makes slicing exact: **a dead channel is zero everywhere**. A mask over the outputs of a convolution or linear
layer makes weight rows and bias zero; each batch norm multiplies scale and shift by the set of live channels of its
input, so the mask acts after the norm and a dead channel does not turn into a constant. Sums are live on the union of
their sets. Operations that mix channels, or do not map zero to zero, need all channels; otherwise the layer is refused.

The network is traced once with ``torch.fx``; the rules below then carry sets of channels along the graph.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from sparsebench.execution.liveness_rules import LiveSet, function, names, refuse, round_up, union

Conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

ZERO_STAYS = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.ELU, nn.Hardswish, nn.Tanh,
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
)  # fmt: skip
SUMS: tuple[Any, ...] = (operator.add, operator.iadd, torch.add)  # pyright: ignore


Steps = list[tuple[fx.Node, list[fx.Node]]]

ALL = LiveSet()


@dataclass
class LiveSets:
    """Sets of live channels at each place where they are needed.

    Attributes:
        layers: layer name -> (outputs, inputs); None = all of them.
        norms: batch norm name -> its channels.
        sums: node name -> (first summand, second summand, their union).
        pads: nodes that append zero channels, which a small network leaves out.
        ties: pairs of masked layers whose outputs are summed.
        summed: masked layers whose outputs enter a sum.
        scaled: masked layers whose outputs are read by a norm with a scale, and by nothing else.
        sources: layer, norm or sum -> masked layers whose channels it reads.
    """

    layers: dict[str, tuple[Tensor | None, Tensor | None]] = field(
        default_factory=dict[str, tuple[Tensor | None, Tensor | None]]
    )
    norms: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    sums: dict[str, tuple[Tensor | None, Tensor | None, Tensor | None]] = field(
        default_factory=dict[str, tuple[Tensor | None, Tensor | None, Tensor | None]]
    )
    pads: set[str] = field(default_factory=set[str])
    ties: set[frozenset[str]] = field(default_factory=set[frozenset[str]])
    summed: set[str] = field(default_factory=set[str])
    scaled: set[str] = field(default_factory=set[str])
    sources: dict[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])


def named(module: nn.Module) -> dict[str, nn.Module]:
    """Return all modules within a module, including itself, by name."""
    return dict(cast("Iterable[tuple[str, nn.Module]]", module.named_modules()))


def trace(module: nn.Module) -> fx.Graph:
    """Trace the forward pass of a module in its current mode; layers of ``torch.nn`` are single nodes.

    Raises:
        ValueError: the forward pass depends on values, so it has no fixed graph.
    """
    try:
        return fx.Tracer().trace(module)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{type(module).__name__} cannot be made smaller: torch.fx cannot trace it ({reason})"
        ) from error


def steps(graph: fx.Graph) -> Steps:
    """Return the nodes of a graph in execution order, each with the nodes that it reads."""
    return [(node, node.all_input_nodes) for node in graph.nodes]


def live_sets(
    steps: Steps, modules: Mapping[str, nn.Module], masks: Mapping[str, Tensor], *, multiple: int = 1
) -> LiveSets:
    """Propagate masks along a graph and return the live channels of each tensor.

    Args:
        steps: steps of the graph that ``trace`` returned.
        modules: modules of the traced network by name.
        masks: layer name -> bool [outputs], on the CPU; probabilities give expected sets for independent masks.
        multiple: number to a multiple of which ``round_up`` rounds the channels of sums.

    Raises:
        ValueError: a layer that is masked or reads masked channels cannot be sliced.
    """
    walk = _Walk(modules, masks, multiple)
    known: dict[fx.Node, LiveSet] = {}
    for node, inputs in steps:
        known[node] = walk.visit(node, [known[n] for n in inputs])
    return walk.found


class _Walk:
    """Rules that map a node and the live sets of its inputs to the live set of its output."""

    def __init__(self, modules: Mapping[str, nn.Module], masks: Mapping[str, Tensor], multiple: int) -> None:
        self.modules, self.masks, self.multiple = modules, masks, multiple
        self.found = LiveSets()

    def visit(self, node: fx.Node, inputs: list[LiveSet]) -> LiveSet:
        if node.op == "call_module":
            self._scaled(node)
            return self._module(str(node.target), self.modules[str(node.target)], inputs)
        if (node.op == "call_function" and node.target in SUMS) or (node.op, node.target) == ("call_method", "add"):
            return self._sum(node, inputs)
        if node.op == "output" and any(given.live is not None for given in inputs):
            refuse("the output", f"reads masked channels of {names(inputs)}: exclude the last layer from masking")
        if all(given.live is None for given in inputs):
            return ALL
        given = function(node, inputs)
        if node.target is functional.pad and len(cast(Tensor, given.live)) > len(cast(Tensor, inputs[0].live)):
            self.found.pads.add(node.name)
        return given

    def _scaled(self, norm: fx.Node) -> None:
        layer, before = self.modules[str(norm.target)], norm.all_input_nodes[0]
        if isinstance(layer, _BatchNorm) and layer.affine and before.target in self.masks and len(before.users) == 1:
            self.found.scaled.add(str(before.target))

    def _module(self, name: str, layer: nn.Module, inputs: list[LiveSet]) -> LiveSet:
        given = inputs[0]
        if isinstance(layer, Conv):
            return self._convolution(name, layer, given)
        if isinstance(layer, nn.Linear):
            return self._linear(name, layer, given)
        if name in self.masks:
            refuse(name, f"a mask over the outputs of {type(layer).__name__} has no rule")
        if given.live is None:
            return ALL
        if isinstance(layer, _BatchNorm) and given.live.shape[0] == layer.num_features:
            self._once(name, self.found.norms)
            self.found.norms[name], self.found.sources[name] = given.live, given.sources
            return given
        if isinstance(layer, nn.Flatten) and (layer.start_dim, layer.end_dim) == (1, -1):
            return LiveSet(given.live, True, given.sources)
        if isinstance(layer, ZERO_STAYS) and not (given.flat and "Pool" in type(layer).__name__):
            return given
        return refuse(name, _reason(layer))

    def _convolution(self, name: str, layer: Any, given: LiveSet) -> LiveSet:
        own = self.masks.get(name)
        if given.flat and given.live is not None:
            refuse(name, "it reads flattened channels")
        if layer.groups == 1:
            return self._layer(name, own, given, given.live)
        depthwise = layer.groups == layer.in_channels == layer.out_channels
        if own is not None:
            kind = "a depthwise" if depthwise else "a grouped"
            refuse(name, f"{kind} convolution is tied to its inputs and has no separate mask: exclude it")
        if given.live is not None and not depthwise:
            refuse(name, f"a convolution in {layer.groups} groups reads masked channels, which would leave them uneven")
        if given.live is not None:
            self._layer(name, given.live, given, given.live)
        return given

    def _linear(self, name: str, layer: nn.Linear, given: LiveSet) -> LiveSet:
        live = given.live
        if live is not None:
            positions, rest = divmod(layer.in_features, live.shape[0])
            if not given.flat or rest:
                refuse(name, "a linear layer reads masked channels that are not flattened before it")
            live = live.repeat_interleave(positions)
        after = self._layer(name, self.masks.get(name), given, live)
        return LiveSet(after.live, after.live is not None, after.sources)

    def _layer(self, name: str, out: Tensor | None, given: LiveSet, live: Tensor | None) -> LiveSet:
        if out is not None or live is not None:
            self._once(name, self.found.layers)
            self.found.layers[name], self.found.sources[name] = (out, live), given.sources
        return ALL if out is None else LiveSet(out, False, frozenset([name]))

    def _once(self, name: str, seen: Mapping[str, Any]) -> None:
        if name in seen:
            refuse(name, "it is called more than once")

    def _sum(self, node: fx.Node, inputs: list[LiveSet]) -> LiveSet:
        partial = [given for given in inputs if given.live is not None]
        if not partial:
            return ALL
        if len(node.args) != 2 or node.kwargs or not all(isinstance(arg, fx.Node) for arg in node.args):
            refuse(node.name, "a number is added to masked channels, which would not stay zero")
        one, two = inputs if len(inputs) == 2 else (inputs[0], inputs[0])
        if one.flat != two.flat and len(partial) == 2:
            refuse(node.name, "a flattened tensor is added to one that is not")
        if one.live is not None and two.live is not None and one.live.shape != two.live.shape:
            refuse(node.name, "tensors of different numbers of channels are added")
        live = union(one.live, two.live)
        if live is not None and self.multiple > 1:
            live = round_up(live, self.multiple)
        self.found.sums[node.name] = (one.live, two.live, live)
        sources = one.sources | two.sources
        self.found.sources[node.name] = sources
        self.found.summed |= sources
        self.found.ties |= {frozenset((a, b)) for a in one.sources for b in two.sources if a != b}
        return ALL if live is None else LiveSet(live, one.flat, sources)


def _reason(layer: nn.Module) -> str:
    kind = type(layer).__name__
    if isinstance(layer, nn.GroupNorm | nn.LayerNorm | nn.InstanceNorm2d | nn.RMSNorm):
        return f"{kind} mixes channels or shifts them by constants, so a smaller network would compute something else"
    return f"{kind} has no rule: it may mix channels or turn zeros into other values"
