"""Base of methods whose network uses a smooth function of the trained parameters, pruned late by magnitude."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsebench.cost.passes import DENSE, SPARSE, Passes
from sparsebench.functional.counts import global_budget
from sparsebench.methods.base import Clock, Distribution, Masked, Probe
from sparsebench.sparse.model import SparseModel


@dataclass(frozen=True, kw_only=True)
class ComputedWeights(Masked):
    """Train parameters, compute the weights by a function that favours sparsity, and prune the weights once.

    Subclasses define the weights of the network (``computed``) and the parameters that give the initial weights
    (``encode``), so that training starts from the network as initialised. At ``topk_at`` the largest weights are kept,
    as many as the budget allows, and training continues in the same parameters with fixed masks. The result is an
    ordinary network with these weights.

    Args:
        topk_at: moment of pruning as a fraction of training; 1 prunes at the end.
    """

    budget_holds: ClassVar[str] = "end"
    zeros: ClassVar[str] = "computed"

    distribution: Distribution = global_budget
    topk_at: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.topk_at <= 1:
            raise ValueError(f"topk_at={self.topk_at:g} is impossible: choose a share of the budget in (0, 1]")

    # -- for subclasses -----------------------------------------------------------------------------------------------

    def computed(self, net: SparseModel) -> Mapping[str, Tensor]:
        """Return the weights as a differentiable function of all parameters, without masks."""
        raise NotImplementedError

    def encode(self, net: SparseModel) -> None:
        """Replace the weights by parameters from which ``computed`` gives these weights."""
        raise NotImplementedError

    # -- weights of the network ----------------------------------------------------------------------------------------

    def view(self, net: SparseModel) -> dict[str, Tensor]:
        """Return the computed weights within the masks; the stored ones once they are final."""
        if "final" in net.memory:
            return net.masked()
        shown = self.computed(net)
        counts = net.counts
        return {n: w if counts[n] == w.numel() else torch.where(net.masks[n], w, 0.0) for n, w in shown.items()}

    # -- schedule -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def start(self, net: SparseModel, probe: Probe) -> None:
        """Raise an error for an impossible budget; encode the initial weights."""
        super().start(net, probe)
        self.encode(net)

    def after_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Prune at ``topk_at``."""
        if "final" not in net.memory and clock.step == max(1, round(self.topk_at * clock.total)):
            self.prune(net, optimizer)

    @torch.no_grad()
    def prune(self, net: SparseModel, optimizer: Optimizer | None = None) -> None:
        """Keep the largest weights, as many as the budget allows; clear the parameters of the others."""
        strength = {name: weight.abs() for name, weight in self.computed(net).items()}
        masks = self.pattern.keep(strength, self.budget(net))
        net.set_masks(masks, optimizer, keep=masks)

    @torch.no_grad()
    def finish(self, net: SparseModel) -> None:
        """Prune if training ended before ``topk_at``; store the weights instead of the parameters."""
        if "final" not in net.memory and net.density == 1 > self.density:
            self.prune(net)
        super().finish(net)
        net.memory["final"] = {name: torch.ones((), dtype=torch.bool) for name in net.params}

    def passes(self, net: SparseModel, clock: Clock) -> Passes:
        """Every pass is dense until weights are pruned, and sparse from then on."""
        del clock
        return SPARSE if net.density < 1 else DENSE
