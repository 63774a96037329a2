"""Run a network with channel masks as the small dense network that it is, or masked at full size: equal numbers.

Small: kept rows and columns of every weight are gathered, the same modules run on the smaller tensors, and autograd
scatters the gradients into zero-filled full-size ones, so that optimizers, checkpoints and DDP see the parameters that
they know. Masked: the same network at full size, multiplied by zeros. Both follow the rule of ``spaces.py``, a dead
channel is zero everywhere, and both leave the running statistics of dead channels alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparsebench.execution.channel_graph import ChannelStructure, Masks, tied
from sparsebench.execution.liveness import Spaces
from sparsebench.execution.stand_ins import Pieces, copied_statistics


class ChannelNetwork(ChannelStructure):
    """Run a network without its dead channels, or with them as zeros."""

    def run(
        self, call: Callable[[Mapping[str, Tensor]], Any], masks: Masks, *, small: bool = True, statistics: bool = True
    ) -> Any:
        """Call a function of weights in which the module runs with these masks.

        Args:
            call: calls the module, directly or not, with the given tensors in the place of its parameters and buffers,
                as an ``Objective`` does.
            masks: channels that live, at least one in each layer.
            small: whether the small network runs, or the full-size one multiplied by zeros.
            statistics: whether the running statistics of the norms learn from this call.

        Raises:
            ValueError: a layer has no live channel, or the network is compiled.
        """
        self._check(masks)
        wide = self.wide(masks) if small else None
        pieces = self.masked(masks) if wide is None else self.small(masks, wide)
        if not statistics:
            pieces.tensors = copied_statistics(self.module) | pieces.tensors
        with self._installed(wide):
            result = call(pieces.tensors)
        if statistics and self.module.training:
            pieces.settle()
        return result

    def _check(self, masks: Masks) -> None:
        empty = [name for name, mask in masks.items() if not bool(mask.any())]
        if empty:
            raise ValueError(f"{empty[0]} has no live channel: every layer needs one")
        if getattr(self.module, "_compiled_call_impl", None) is not None:
            raise ValueError(
                "widths change from step to step, and each would be compiled anew: set trainer.compile=false"
            )

    def small(self, masks: Masks, wide: Spaces) -> Pieces:
        """Gather the tensors of the small network, which has the channels ``wide``."""
        live, pieces = self.spaces(masks), Pieces()
        for name, (out, inputs) in wide.layers.items():
            layer = self.modules[name]
            pieces.layer(name, layer, self._index(out), self._index(None if tied(layer) else inputs))
            alive = live.layers[name][0]
            if alive is not None and name not in live.scaled:  # else the norm behind it makes dead channels zero
                pieces.silence(name, alive, wide=out)
        for name, out in wide.norms.items():
            pieces.norm(name, self.modules[name], live.norms[name], wide=out)
        return pieces

    def masked(self, masks: Masks) -> Pieces:
        """Multiply the tensors of the full-size network by zeros."""
        found, pieces = self.spaces(masks), Pieces()
        for name, (live, _) in found.layers.items():
            if live is not None:
                pieces.layer(name, self.modules[name])
                pieces.silence(name, live)
        for name, live in found.norms.items():
            pieces.norm(name, self.modules[name], live)
        return pieces

    def _index(self, live: Tensor | None) -> Tensor | None:
        return None if live is None or bool(live.all()) else live.nonzero().reshape(-1).to(self.device)

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return next(self.module.parameters()).device

    @contextlib.contextmanager
    def _installed(self, wide: Spaces | None) -> Generator[None]:
        """Let the module run through its twin, whose sums know where channels go, and depthwise layers be narrow."""
        with contextlib.ExitStack() as stack:
            if wide is not None:
                for name, (out, _) in wide.layers.items():
                    if out is not None and tied(self.modules[name]):
                        _swap(stack, vars(self.modules[name]), "groups", int(out.sum()))
                _, twin = self.graph()
                if twin is not None:
                    self._place(twin, wide)
                    _swap(stack, vars(self.module), "forward", twin.forward)
            yield

    def _place(self, twin: nn.Module, found: Spaces) -> None:
        for name, (one, two, both) in found.sums.items():
            total: Any = next(live for live in (both, one, two) if live is not None)
            among = torch.ones_like(total) if both is None else total
            node: Any = twin.get_submodule(f"_{name}")
            node.places = (places(one, among, self.device), places(two, among, self.device))
            node.size = int(among.sum())


def _swap(stack: contextlib.ExitStack, own: dict[str, Any], name: str, value: Any) -> None:
    """Set an attribute of an object until the stack closes."""
    if name in own:
        stack.callback(own.__setitem__, name, own[name])
    else:
        stack.callback(own.__delitem__, name)
    own[name] = value


def places(live: Tensor | None, among: Tensor, device: torch.device) -> Tensor | None:
    """Return where live channels lie among others; None = they are all of them."""
    if live is None or torch.equal(live, among):
        return None
    return live[among].nonzero().reshape(-1).to(device)
