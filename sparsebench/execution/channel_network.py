"""Run a network with channel masks as a small dense network, or masked at full size, with equal numbers.

Small: kept rows and columns of every weight are gathered, the same modules run on the smaller tensors, and autograd
    scatters the gradients into zero-filled full-size ones, so that optimizers, checkpoints and DDP see the original
    parameters. Masked: the same network at full size, multiplied by zeros. Both follow the rule of ``liveness.py`` that
    a dead channel is zero everywhere, and neither updates the running statistics of dead channels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor, nn

from sparsebench.execution.base import Backend, Masks, SharedMasks, Shares, replace
from sparsebench.execution.channel_graph import ChannelGraph, is_depthwise
from sparsebench.execution.liveness import LiveSets
from sparsebench.execution.stand_ins import StandIns, copied_statistics
from sparsebench.functional.score import Objective


class ChannelNetwork(ChannelGraph, Backend):
    """The small dense network under channel masks: the kept rows and columns of every weight."""

    def run(self, objective: Objective, masks: Masks, *, statistics: bool = True, small: bool = True) -> Tensor:
        """Return the loss of the network with these masks.

        Args:
            objective: weights -> loss; calls the module, directly or indirectly, with the given tensors in place of its
                parameters and buffers.
            masks: live channels, at least one in each layer.
            statistics: whether this call updates the running statistics of the norms.
            small: False runs the same network at full size, multiplied by zeros.

        Raises:
            ValueError: a layer has no live channel, or the network is compiled.
        """
        self._check(masks)
        live = self.live(masks)
        stand_ins = self.small(live) if small else self.masked(live)
        if not statistics:
            stand_ins.tensors = copied_statistics(self.module) | stand_ins.tensors
        with self._installed(live.rounded if small else None):
            result = objective(stand_ins.tensors)
        if statistics and self.module.training:
            stand_ins.write_back()
        return result

    def _check(self, masks: Masks) -> None:
        empty = [name for name, mask in masks.items() if not bool(mask.any())]
        if empty:
            raise ValueError(f"{empty[0]} has no live channel: every layer needs one")
        if getattr(self.module, "_compiled_call_impl", None) is not None:
            raise ValueError(
                "widths change from step to step, and each would be compiled separately: set trainer.compile=false"
            )

    def small(self, masks: Masks) -> StandIns:
        """Gather the tensors of the small network."""
        exact, wide, stand_ins = self.exact(masks), self.rounded(masks), StandIns()
        for name, (out, inputs) in wide.layers.items():
            layer = self.modules[name]
            stand_ins.layer(name, layer, self._index(out), self._index(None if is_depthwise(layer) else inputs))
            alive = exact.layers[name][0]
            if alive is not None and name not in exact.scaled:  # otherwise the norm after it makes dead channels zero
                stand_ins.zero_dead(name, alive, wide=out)
        for name, out in wide.norms.items():
            stand_ins.norm(name, self.modules[name], exact.norms[name], wide=out)
        return stand_ins

    def masked(self, masks: Masks) -> StandIns:
        """Multiply the tensors of the full-size network by their masks."""
        found, stand_ins = self.exact(masks), StandIns()
        for name, (live, _) in found.layers.items():
            if live is not None:
                stand_ins.layer(name, self.modules[name])
                stand_ins.zero_dead(name, live)
        for name, live in found.norms.items():
            stand_ins.norm(name, self.modules[name], live)
        return stand_ins

    # -- for methods and the ledger ---------------------------------------------------------------------------------

    def view(self, masks: Masks) -> dict[str, Tensor]:
        """Return the tensors of the full-size network with zeros, norms and their statistics included."""
        return self.masked(masks).tensors

    def unit_masks(self, weight_masks: Masks) -> dict[str, Tensor]:
        """Return the channels with an active weight; all channels of a layer without a mask."""
        found: dict[str, Tensor] = {}
        for name, width in self.units.items():
            mask = weight_masks.get(f"{name}.weight", torch.ones(width, 1, dtype=torch.bool))
            found[name] = mask.reshape(width, -1).any(dim=1).cpu()
        return found

    def shares(self, masks: Masks, *, executed: bool = False) -> Shares:
        """Return the share of each weight used in the products of the network with these masks, by parameter name.

        Args:
            masks: bool; probabilities give the expectation under independent draws (not with tied masks).
            executed: whether to count the dead channels that rounding adds.
        """
        live = self.live(masks)
        found = live.rounded if executed else live.exact
        return {
            f"{name}.weight": live.share(out) * live.share(None if is_depthwise(self.modules[name]) else inputs)
            for name, (out, inputs) in found.layers.items()
        }

    def weight_masks(self, masks: Masks) -> dict[str, Tensor]:
        """Return the weights that stay, by parameter name: kept rows times kept columns."""
        kept: dict[str, Tensor] = {}
        for name, (out, live) in self.exact(masks).layers.items():
            layer: Any = self.modules[name]
            weight: Tensor = layer.weight
            rows = torch.ones(weight.shape[0], dtype=torch.bool) if out is None else out
            columns = None if is_depthwise(layer) else live
            columns = torch.ones(weight.shape[1], dtype=torch.bool) if columns is None else columns
            block: Tensor = (rows[:, None] & columns).reshape(*weight.shape[:2], *[1] * (weight.dim() - 2))
            kept[f"{name}.weight"] = block.expand(weight.shape).contiguous().to(weight.device)
        return kept

    def __str__(self) -> str:
        """List the masks with the layers that each cuts, the ties and the residual sums."""
        return f"{type(self).__name__} of {type(self.module).__name__}: {self.describe()}"

    def _index(self, live: Tensor | None) -> Tensor | None:
        return None if live is None or bool(live.all()) else live.nonzero().reshape(-1).to(self.device)

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next(self.module.parameters()).device

    @contextlib.contextmanager
    def _installed(self, wide: LiveSets | None) -> Generator[None]:
        """Temporarily run the rewritten graph, whose sums scatter channel subsets, and narrow depthwise layers."""
        with contextlib.ExitStack() as stack:
            if wide is not None:
                for name, (out, _) in wide.layers.items():
                    if out is not None and is_depthwise(self.modules[name]):
                        replace(stack, self.modules[name], "groups", int(out.sum()))
                _, twin = self.graph()
                if twin is not None:
                    self._place(twin, wide)
                    replace(stack, self.module, "forward", twin.forward)
            yield

    def _place(self, twin: nn.Module, found: LiveSets) -> None:
        for name, (one, two, both) in found.sums.items():
            total: Any = next(live for live in (both, one, two) if live is not None)
            among = torch.ones_like(total) if both is None else total
            node: Any = twin.get_submodule(f"_{name}")
            node.places = (positions(one, among, self.device), positions(two, among, self.device))
            node.size = int(among.sum())


def positions(live: Tensor | None, among: Tensor, device: torch.device) -> Tensor | None:
    """Return the positions of live channels among others; None if all of them are live."""
    if live is None or torch.equal(live, among):
        return None
    return live[among].nonzero().reshape(-1).to(device)


class MaskedChannels(SharedMasks):
    """The network with channel masks at full size, multiplied by zeros: the reference for the small network."""

    network: ChannelNetwork

    def run(self, objective: Objective, masks: Masks, *, statistics: bool = True) -> Tensor:
        """Return the loss of the network with these masks."""
        return self.network.run(objective, masks, statistics=statistics, small=False)

    @property
    def full_size(self) -> bool:
        """True: every product is dense."""
        return True
