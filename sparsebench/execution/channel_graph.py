"""The channel structure of a network: its masks, the live channels under them, and the dependencies between layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, fx, nn

from sparsebench.execution.base import Live, Masks
from sparsebench.execution.describe import describe
from sparsebench.execution.gather import Drop, Sum
from sparsebench.execution.liveness import Conv, LiveSets, Steps, live_sets, named, steps, trace
from sparsebench.execution.liveness_rules import round_up

Residual = Literal["union", "tied", "inner"]


class ChannelGraph:
    """A network whose convolutions, or hidden linear layers, can lose output channels.

    Args:
        module: the network; it is traced, never changed.
        layers: names of the layers that have masks.
        multiple: widths of small layers are rounded up to a multiple of this if that adds at most an eighth, otherwise
            of its half, and so on. Dead channels, multiplied by zero, fill the rest.
        sum_multiple: the same for residual sums, whose width varies between draws.
        residual: ``union``: every layer has a separate mask, and a sum is live on the union of its summands' channels;
            ``tied``: layers that add to one stream share a mask; ``inner``: layers that enter a sum have no mask.

    Attributes:
        units: name of a mask -> number of its channels; the (first) layer names the mask.

    Raises:
        ValueError: channels cannot be removed; the message names the layer and the reason.
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
        self._traced: dict[bool, tuple[Steps, fx.GraphModule | None]] = {}
        self._leaders = {name: name for name in layers}
        found = live_sets(self.graph()[0], self.modules, self._partial())
        if residual == "inner":
            self._leaders = {name: name for name in self._leaders if name not in found.summed}
            self._traced = {}
        elif residual == "tied":
            self._tie(found)
        self.units = {name: _outputs(self.modules[name]) for name in self._leaders.values()}

    @classmethod
    def of(cls, module: nn.Module, parameters: Iterable[str], **options: Any) -> Self:
        """Build the graph in which the convolutions among ``parameters`` can lose output channels.

        In a network without convolutions, the hidden linear layers can lose channels. The options are the class's.

        Raises:
            ValueError: no layer can lose channels, or channels cannot be removed.
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
                "no layer may lose channels: make a convolution sparse (prunable), or use method.level=weight"
            )
        return cls(module, layers, **options)

    # -- structure ------------------------------------------------------------------------------------------------

    def graph(self) -> tuple[Steps, fx.GraphModule | None]:
        """Return the network's steps in its current mode, and a copy that adds channel subsets, if needed.

        The network is traced once per mode.
        """
        mode = self.module.training
        if mode not in self._traced:
            order = steps(trace(self.module))
            found = live_sets(order, self.modules, self._partial())
            self._traced[mode] = (order, self._twin(found) if found.sums or found.pads else None)
        return self._traced[mode]

    def _twin(self, found: LiveSets) -> fx.GraphModule:
        """Build a graph module that shares the module's layers and adds channel subsets."""
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
        """Return masks with one dead channel in each layer, to reveal layers that cannot be sliced."""
        widths = {name: _outputs(self.modules[name]) for name in self._leaders}
        return {name: torch.arange(width) > 0 for name, width in widths.items()}

    def _tie(self, found: LiveSets) -> None:
        order = list(self._leaders)
        for pair in found.ties:
            first, *others = sorted({self._leaders[name] for name in pair}, key=order.index)
            self._leaders = {name: first if leader in others else leader for name, leader in self._leaders.items()}

    def live(self, masks: Masks) -> ChannelLive:
        """Return masks whose live channels at each place are computed on first use."""
        return masks if isinstance(masks, ChannelLive) and masks.graph is self else ChannelLive(self, masks)

    def exact(self, masks: Masks) -> LiveSets:
        """Return the live channels at each place."""
        return self.live(masks).exact

    def rounded(self, masks: Masks) -> LiveSets:
        """Return the channels of the small network: the live ones, and dead ones that round up its widths.

        Kernels are faster at round widths, and are compiled for each pair of widths on first use.
        """
        return self.live(masks).rounded

    def find(self, masks: Masks, *, rounded: bool) -> LiveSets:
        """Propagate masks along the graph; ``exact`` and ``rounded`` cache the result for each set of masks."""
        each = {name: masks[leader] for name, leader in self._leaders.items()}
        if not rounded:
            return live_sets(self.graph()[0], self.modules, each)
        each = {name: round_up(mask, self.multiple) for name, mask in each.items()}
        return live_sets(self.graph()[0], self.modules, each, multiple=self.sum_multiple)

    def describe(self) -> str:
        """List each unit with the layers that it cuts, then ties and sums, one per line."""
        found = live_sets(self.graph()[0], self.modules, self._partial())
        return "\n".join(describe(self._leaders, self.units, found))


class ChannelLive(Live):
    """Masks over channels, with the channels that are live under them at each place of one network.

    Args:
        graph: channel graph of the network.
        masks: masks by unit; probabilities give expected sets.
    """

    def __init__(self, graph: ChannelGraph, masks: Masks) -> None:
        super().__init__(masks)
        self.graph = graph
        self._found: dict[tuple[bool, bool], LiveSets] = {}
        self._shares: dict[int, tuple[Tensor, float]] = {}

    @property
    def exact(self) -> LiveSets:
        """The live channels at each place."""
        return self._find(rounded=False)

    @property
    def rounded(self) -> LiveSets:
        """The live channels at each place, plus dead ones that round up widths."""
        return self._find(rounded=(self.graph.multiple, self.graph.sum_multiple) != (1, 1))

    def share(self, live: Tensor | None) -> float:
        """Return the share of live channels in one set; a set serves the layers on both of its sides."""
        if live is None:
            return 1.0
        if id(live) not in self._shares:  # keep the set alive, so that its id is not reused
            self._shares[id(live)] = (live, float(live.sum(dtype=torch.float64)) / live.numel())
        return self._shares[id(live)][1]

    def _find(self, *, rounded: bool) -> LiveSets:
        case = (self.graph.module.training, rounded)
        if case not in self._found:
            self._found[case] = self.graph.find(self, rounded=rounded)
        return self._found[case]


def _outputs(layer: Any) -> int:
    return int(layer.weight.shape[0])


def is_depthwise(layer: nn.Module) -> bool:
    """Return True if each output of a layer depends on one input channel only."""
    return getattr(layer, "groups", 1) > 1
