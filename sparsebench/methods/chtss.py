"""Cannistraci-Hebb training with the soft rule while the density falls along a sigmoid (Zhang et al. 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsebench.functional.schedule import sigmoid
from sparsebench.methods.base import Clock, Probe
from sparsebench.methods.chts import CHTs
from sparsebench.methods.draws import draw_scores
from sparsebench.methods.gradual import thin
from sparsebench.sparse.model import SparseModel


@dataclass(frozen=True, kw_only=True)
class CHTss(CHTs):
    """Begin denser than the target and prune at each update, before links are drawn as in ``CHTs``.

    Every layer loses its weakest links, by ``removal``, along a logistic curve from ``density_start`` to its density at
    ``prune_until``. Source: arXiv 2501.19107 and the code of its experiments on language models.

    Args:
        density_start: density of the first masks.
        prune_until: moment at which the target density is reached exactly, as a fraction of the budget.
        steepness: steepness of the curve.
    """

    budget_holds: ClassVar[str] = "end"

    removal: Literal["magnitude", "relative"] = "relative"
    density_start: float = 0.5
    prune_until: float = 0.8
    until: float = 0.8
    steepness: float = 6.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.density <= self.density_start <= 1:
            raise ValueError(
                f"density_start {self.density_start:g} must lie between the target density {self.density:g} and 1: "
                f"CHTss becomes sparser, never denser"
            )
        if not 0 < self.prune_until <= 1 or self.steepness <= 0:
            raise ValueError(
                f"prune_until={self.prune_until:g}, steepness={self.steepness:g}: prune_until in (0, 1] and "
                f"steepness > 0 are needed"
            )

    def draw_masks(self, net: SparseModel) -> dict[str, Tensor]:
        """Return random masks of the initial density."""
        first = self.pattern.budget(net.shapes, self.distribution(net.shapes, self.density_start))
        return self.pattern.keep(draw_scores(net, "start"), first)

    def start(self, net: SparseModel, probe: Probe) -> None:
        """Draw random masks of the initial density; no layer has stopped."""
        del probe
        self.budget(net)  # raises an error for a budget that cannot be reached
        net.set_masks(self.draw_masks(net))
        self.begin(net)

    def _due(self, clock: Clock) -> bool:
        return super()._due(clock) or clock.step == max(1, round(self.prune_until * clock.total))

    @torch.no_grad()
    def rewire(self, net: SparseModel, clock: Clock, optimizer: Optimizer | None) -> None:
        """Prune while the curve falls, then draw links that stay and links that grow."""
        if clock.step <= max(1, round(self.prune_until * clock.total)):
            self.prune(net, clock, optimizer)
        super().rewire(net, clock, optimizer)

    def prune(self, net: SparseModel, clock: Clock, optimizer: Optimizer | None) -> None:
        """Keep as many of the strongest links of each layer as the curve allows now."""
        first = self.distribution(net.shapes, self.density_start)
        final = self.distribution(net.shapes, self.density)
        begin = first if isinstance(first, Mapping) else self.density_start
        curve = partial(sigmoid, steepness=self.steepness)
        densities = thin(begin, final, clock.between(0.0, self.prune_until), curve)
        strength = {name: self.drop_score(net, name, {}).masked_fill(~mask, -1.0) for name, mask in net.masks.items()}
        net.set_masks(self.pattern.keep(strength, self.pattern.budget(net.shapes, densities)), optimizer)
