"""Let any method whose pattern is whole output channels train the small network that its masks leave."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsebench.cost.passes import Passes
from sparsebench.execution import ChannelNetwork
from sparsebench.execution.runtime import Execution, Masks, Session, module_of, run, runs_small, session_of
from sparsebench.methods.base import Clock, Masked, Method, Objective
from sparsebench.patterns import Channels
from sparsebench.runs.messages import check_choice
from sparsebench.sparse.model import SparseModel


def narrowed(method: Method, execution: Execution) -> Method:
    """Return the same method, with its masks acting after the norms and its network run as ``execution`` says.

    Args:
        method: one with stored zeros and the pattern ``Channels(dim=0)``.
        execution: ``compact``: as a small network; ``masked``: at full size; ``auto``: the faster.

    Raises:
        ValueError: the method has no such pattern, or computes its zeros by itself.
    """
    check_choice("execution", execution, get_args(Execution))
    kind = type(method)
    if not isinstance(method, Masked) or method.pattern != Channels(dim=0):
        raise ValueError(
            f"execution={execution} needs whole output channels, which {kind.__name__} does not prune: set "
            f"pattern=channels, choose method=vr_pge, or leave execution=null"
        )
    if kind.loss is not Method.loss or kind.view is not Method.view:
        raise ValueError(f"{kind.__name__} computes its own zeros and runs at full size only: leave execution=null")
    made = type(kind.__name__, (Narrowed, kind), {"__doc__": kind.__doc__})
    narrow = object.__new__(made)
    for field in fields(method):
        object.__setattr__(narrow, field.name, getattr(method, field.name))
    object.__setattr__(narrow, "execution", execution)
    return narrow


@dataclass(frozen=True, kw_only=True)
class Narrowed(Masked):
    """What stands before a method in the order of its classes, so that it runs without dead channels."""

    execution: Execution = "compact"

    def session(self, net: SparseModel) -> Session:
        """Return the session, whose network can lose the outputs of every layer that may be sparse."""
        layers = [name.removesuffix(".weight") for name in net.params]
        return session_of(net, lambda model: ChannelNetwork(module_of(model), layers, sum_multiple=16))

    def live(self, net: SparseModel) -> Masks:
        """Return the live channels of each layer, found once for each change of the masks."""
        session = self.session(net)
        if session.seen != net.version:
            masks = {name: net.mask(f"{name}.weight") for name in session.network.units}
            session.live = {name: mask.reshape(len(mask), -1).any(dim=1).cpu() for name, mask in masks.items()}
            session.seen = net.version
        return session.live

    def loss(self, net: SparseModel, objective: Objective) -> Tensor:
        """Return the loss of the network of live channels."""
        if not net.masks:
            return super().loss(net, objective)
        return run(net, self.session(net), objective, self.live(net), execution=self.execution)

    def view(self, net: SparseModel) -> dict[str, Tensor]:
        """Show the network of live channels, at full size."""
        return self.session(net).network.masked(self.live(net)).tensors if net.masks else {}

    def before_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Refuse to let a method look at gradients of channels that are not there.

        Raises:
            ValueError: the method needs dense gradients.
        """
        session = self.session(net)
        steps = range(clock.step, clock.step if session.checked else clock.total)
        if any("dense" in super(Narrowed, self).passes(net, Clock(step, clock.total)).weight for step in steps):
            raise ValueError(
                f"{type(self).__name__} looks at gradients of dead channels, which a small network does not have: "
                f"choose a method that does not (set, static, gmp, magnitude, vr_pge), or leave execution=null"
            )
        session.checked = True
        super().before_step(net, clock, optimizer)

    @torch.no_grad()
    def finish(self, net: SparseModel) -> None:
        """Store zeros for all that belongs to dead channels, norms included."""
        stored = dict(module_of(net).named_parameters())
        for name, tensor in self.view(net).items():
            if name in stored:
                stored[name].copy_(tensor)

    def passes(self, net: SparseModel, clock: Clock) -> Passes:
        """Count rows and columns: a dead channel is missing in the next layer too."""
        return self._shares(net, executed=False) if net.masks else super().passes(net, clock)

    def executed(self, net: SparseModel, clock: Clock) -> Passes | None:
        """Say what the small network multiplies."""
        return self._shares(net, executed=True) if net.masks and runs_small(net, self.execution) else None

    def _shares(self, net: SparseModel, *, executed: bool) -> Passes:
        shares = self.session(net).network.shares(self.live(net), executed=executed)
        return Passes((shares,), (shares,), (shares,))
