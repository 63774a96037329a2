"""GraNet: gradual pruning with regeneration after every pruning (Liu et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch.optim import Optimizer

from sparsebench.functional.counts import global_budget
from sparsebench.functional.distribution import erk
from sparsebench.methods.base import Clock, Distribution, Probe
from sparsebench.methods.dynamic import RigL
from sparsebench.methods.gradual import magnitudes, thin
from sparsebench.methods.static import draw_scores
from sparsebench.sparse.model import SparseModel


@dataclass(frozen=True, kw_only=True)
class GraNet(RigL):
    """Prune by magnitude along a cubic curve, and rewire the remaining weights at each update as in RigL.

    ``distribution`` divides the budget: one global ranking by default, as in the paper. Weights regenerate within their
    layer. Rewiring continues after pruning has ended.

    Args:
        density_start: density of the first masks; 1 trains densely at first.
        start_distribution: how the first masks are divided over layers.
        prune_from: first pruning, as a fraction of the budget.
        prune_until: moment at which the target density is reached exactly, as a fraction of the budget.
    """

    paper: ClassVar[str] = "granet"
    budget_holds: ClassVar[str] = "end"

    distribution: Distribution = global_budget
    density_start: float = 1.0
    start_distribution: Distribution = erk
    prune_from: float = 0.0
    prune_until: float = 0.5
    every: float = 1000
    until: float = 1.0
    drop_fraction: float = 0.5
    drop_fraction_end: float = 0.005
    drop_count: Literal["floor", "ceil"] = "ceil"
    replaces_step: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.density <= self.density_start <= 1:
            raise ValueError(
                f"density_start {self.density_start:g} must lie between the target density {self.density:g} and 1: "
                f"GraNet becomes sparser, never denser"
            )
        if not 0 <= self.prune_from < self.prune_until <= 1:
            raise ValueError(
                f"prune_from={self.prune_from:g}, prune_until={self.prune_until:g}: "
                f"0 <= prune_from < prune_until <= 1 is needed"
            )

    def start(self, net: SparseModel, probe: Probe) -> None:
        """Draw random masks of the initial density: all ones if it is 1."""
        del probe
        self.budget(net)  # raises an error for a budget that cannot be reached
        first = self.pattern.budget(net.shapes, self.start_distribution(net.shapes, self.density_start))
        net.set_masks(self.pattern.keep(draw_scores(net, "start"), first))

    def _due(self, clock: Clock) -> bool:
        return super()._due(clock) or clock.step == max(1, round(self.prune_until * clock.total))

    @torch.no_grad()
    def rewire(self, net: SparseModel, clock: Clock, optimizer: Optimizer | None) -> None:
        """Prune while the curve falls, then drop and regenerate in each layer."""
        first, last = (round(at * clock.total) for at in (self.prune_from, self.prune_until))
        if first <= clock.step <= max(1, last):
            self.prune(net, clock, optimizer)
        super().rewire(net, clock, optimizer)

    def prune(self, net: SparseModel, clock: Clock, optimizer: Optimizer | None) -> None:
        """Keep as many of the largest magnitudes as the curve allows now."""
        final = self.distribution(net.shapes, self.density)
        first = self.start_distribution(net.shapes, self.density_start) if isinstance(final, Mapping) else None
        progress = clock.between(self.prune_from, self.prune_until)
        densities = thin(self.density_start if first is None else first, final, progress)
        if not isinstance(densities, Mapping) and progress < 1:  # the published code rounds down before the end
            total = sum(p.numel() for p in net.params.values())
            densities = math.floor(round(densities * total, 6)) / total
        net.set_masks(self.pattern.keep(magnitudes(net), self.pattern.budget(net.shapes, densities)), optimizer)
