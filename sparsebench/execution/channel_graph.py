"""What a network of channels is made of: masks and their units, live sets, and the graph that adds channel subsets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, fx, nn

from sparsebench.execution.gather import Drop, Sum
from sparsebench.execution.liveness import Conv, Spaces, named, spaces, trace
from sparsebench.execution.liveness_rules import filled

Masks = Mapping[str, Tensor]
"""Name of a unit (the layer, or the first of those that share a mask) -> bool [outputs], on the CPU."""

Residual = Literal["union", "tied", "inner"]


class ChannelStructure:
    """A network whose convolutions, or hidden linear layers, can lose output channels.

    Args:
        module: the network; it is traced, never changed.
        layers: names of the layers that have masks.
        multiple: widths of small layers are rounded up to a multiple of this where that adds no more than an eighth,
            else of its half, and so on: dead channels, multiplied by zero, fill up.
        sum_multiple: the same for residual sums, whose unions are as wide as chance wills.
        residual: ``union``: every layer has a mask of its own, and a sum lives on the union of its summands; ``tied``:
            layers that add to one stream share a mask; ``inner``: layers that enter a sum have no mask.

    Attributes:
        units: name of a mask -> number of its channels; the name is that of the (first) layer.

    Raises:
        ValueError: channels cannot be removed; names the layer and the reason.
    """

    def __init__(
        self,
        module: nn.Module,
        layers: Iterable[str],
        *,
        multiple: int = 1,
        sum_multiple: int = 1,
        residual: Residual = "union",
    ) -> None:
        for number in (multiple, sum_multiple):
            if number < 1:
                raise ValueError(f"widths cannot be rounded to a multiple of {number}: give 1 (no rounding) or more")
        if residual not in get_args(Residual):
            raise ValueError(f"residual {residual!r} must be one of {', '.join(get_args(Residual))}")
        self.module, self.multiple, self.sum_multiple = module, multiple, sum_multiple
        self.modules = named(module)
        self._traced: dict[bool, tuple[fx.Graph, fx.GraphModule | None]] = {}
        self._leaders = {name: name for name in layers}
        found = spaces(self.graph()[0], self.modules, self._partial())
        if residual == "inner":
            self._leaders = {name: name for name in self._leaders if name not in found.summed}
            self._traced = {}
        elif residual == "tied":
            self._tie(found)
        self.units = {name: _outputs(self.modules[name]) for name in self._leaders.values()}

    @classmethod
    def of(cls, module: nn.Module, parameters: Iterable[str], **options: Any) -> Self:
        """Let the convolutions lose channels whose weights are among ``parameters``.

        In a network without convolutions, the hidden linear layers do. Options are those of the class.

        Raises:
            ValueError: there is none, or channels cannot be removed.
        """
        allowed = set(parameters)
        modules = named(module)
        layers = [n for n, m in modules.items() if isinstance(m, Conv) and f"{n}.weight" in allowed]
        if not any(isinstance(m, Conv) for m in modules.values()):
            called = [str(n.target) for n in trace(module).nodes if n.op == "call_module"]
            linear = [n for n in called if isinstance(modules[n], nn.Linear)]
            layers = [n for n in linear[:-1] if f"{n}.weight" in allowed]
        if not layers:
            raise ValueError(
                "no layer may lose channels: let a convolution be sparse (prunable), or use method.level=weight"
            )
        return cls(module, layers, **options)

    # -- structure ------------------------------------------------------------------------------------------------

    def graph(self) -> tuple[fx.Graph, fx.GraphModule | None]:
        """Trace once for each mode, and put sums of channel subsets in the place of sums, where there are any."""
        mode = self.module.training
        if mode not in self._traced:
            graph = trace(self.module)
            found = spaces(graph, self.modules, self._partial())
            self._traced[mode] = (graph, self._twin(found) if found.sums or found.pads else None)
        return self._traced[mode]

    def _twin(self, found: Spaces) -> fx.GraphModule:
        """Share the layers of the module in a graph that adds channel subsets."""
        graph = trace(self.module)
        twin = fx.GraphModule(self.module, graph)
        for node in list(twin.graph.nodes):
            if node.name in found.sums or node.name in found.pads:
                stand_in = f"_{node.name}"
                twin.add_submodule(stand_in, Sum() if node.name in found.sums else Drop())
                with twin.graph.inserting_before(node):
                    node.replace_all_uses_with(
                        twin.graph.call_module(stand_in, node.args[: 2 if node.name in found.sums else 1])
                    )
                twin.graph.erase_node(node)
        twin.recompile()
        return twin

    def _partial(self) -> dict[str, Tensor]:
        """Return masks with a dead channel in each layer: what cannot be sliced shows."""
        widths = {name: _outputs(self.modules[name]) for name in self._leaders}
        return {name: torch.arange(width) > 0 for name, width in widths.items()}

    def _tie(self, found: Spaces) -> None:
        order = list(self._leaders)
        for pair in found.ties:
            first, *others = sorted({self._leaders[name] for name in pair}, key=order.index)
            self._leaders = {name: first if leader in others else leader for name, leader in self._leaders.items()}

    def spaces(self, masks: Masks) -> Spaces:
        """Return the live channels at each place."""
        each = {name: masks[leader] for name, leader in self._leaders.items()}
        return spaces(self.graph()[0], self.modules, each)

    def wide(self, masks: Masks) -> Spaces:
        """Return the channels of the small network: the live ones, and the dead ones that round its widths up.

        Kernels like round widths, and are made anew for each pair of widths that they have not seen.
        """
        each = {name: filled(masks[leader], self.multiple) for name, leader in self._leaders.items()}
        return spaces(self.graph()[0], self.modules, each, multiple=self.sum_multiple)

    def shares(self, masks: Masks, *, executed: bool = False) -> dict[str, float]:
        """Return the share of each weight that the network of these masks multiplies by, by parameter name.

        Args:
            masks: bool; probabilities give the expectation under independent draws (not with tied masks).
            executed: count the dead channels that rounding adds.
        """
        found = self.wide(masks) if executed else self.spaces(masks)
        return {
            f"{name}.weight": _share(out) * _share(None if tied(self.modules[name]) else live)
            for name, (out, live) in found.layers.items()
        }

    def weight_masks(self, masks: Masks) -> dict[str, Tensor]:
        """Return the weights that stay, by parameter name: kept rows times kept columns."""
        kept: dict[str, Tensor] = {}
        for name, (out, live) in self.spaces(masks).layers.items():
            weight: Any = self.modules[name].weight
            rows = torch.ones(weight.shape[0], dtype=torch.bool) if out is None else out
            columns = (
                torch.ones(weight.shape[1], dtype=torch.bool) if live is None or tied(self.modules[name]) else live
            )
            block: Tensor = (rows[:, None] & columns).reshape(*weight.shape[:2], *[1] * (weight.dim() - 2))
            kept[f"{name}.weight"] = block.expand(weight.shape).contiguous().to(weight.device)
        return kept


def _outputs(layer: Any) -> int:
    return int(layer.weight.shape[0])


def _share(live: Tensor | None) -> float:
    return 1.0 if live is None else float(live.to(torch.float64).mean())


def tied(layer: nn.Module) -> bool:
    """Tell whether the outputs of a layer are those of its inputs, one by one."""
    return getattr(layer, "groups", 1) > 1
