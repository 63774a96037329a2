"""From dense to sparse in one run: gradual and one-shot magnitude pruning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.optim import Optimizer

from sparsebench.functional.distribution import uniform
from sparsebench.functional.schedule import cubic
from sparsebench.methods.base import Clock, Distribution, Masked
from sparsebench.sparse.model import SparseModel


@dataclass(frozen=True, kw_only=True)
class GMP(Masked):
    """Remove the smallest magnitudes step by step along a cubic curve (Zhu & Gupta 2017).

    At progress p from ``start_at`` to ``until`` every layer has density ``d + (1 - d)(1 - p)^3``, where d is its
    final density. Masks are nested: a pruned weight never returns.

    Args:
        every: steps between prunings (a fraction of the budget when below 1).
        start_at: first pruning, as a fraction of the budget.
        until: moment at which the budget is reached exactly, as a fraction of the budget.
    """

    paper: ClassVar[str] = "zhu_gupta"
    budget_holds: ClassVar[str] = "end"

    distribution: Distribution = uniform
    every: float = 100
    start_at: float = 0.0
    until: float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every <= 0 or not 0 <= self.start_at < self.until <= 1:
            raise ValueError(
                f"start_at={self.start_at:g}, until={self.until:g}, every={self.every:g}: "
                f"0 <= start_at < until <= 1 and every > 0 are needed"
            )

    def after_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Prune on schedule, and at ``until`` whatever the period."""
        last = clock.step == round(self.until * clock.total)
        if clock.due(self.every, self.start_at, self.until) or last:
            net.set_masks(self.prune(net, clock.between(self.start_at, self.until)), optimizer)

    def prune(self, net: SparseModel, progress: float) -> dict[str, Tensor]:
        """Return masks of the largest magnitudes at this progress, within the present ones."""
        share = thin(1.0, self.distribution(net.shapes, self.density), progress)
        return self.pattern.keep(magnitudes(net), self.pattern.budget(net.shapes, share))


@dataclass(frozen=True, kw_only=True)
class OneShot(Masked):
    """Train densely, remove the smallest magnitudes at once, and go on with what is left (fine-tuning).

    Args:
        at: moment of pruning, as a fraction of the budget.
    """

    paper: ClassVar[str] = "magnitude"
    budget_holds: ClassVar[str] = "end"

    at: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.at < 1:
            raise ValueError(f"at={self.at:g} is impossible: choose a share of the budget in (0, 1)")

    def after_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Prune once."""
        if clock.step == max(1, round(self.at * clock.total)):
            net.set_masks(self.pattern.keep(magnitudes(net), self.budget(net)), optimizer)


def thin(
    first: Mapping[str, float] | float, final: Mapping[str, float] | float, progress: float
) -> Mapping[str, float] | float:
    """Return the densities between two moments of cubic pruning, per layer or over all layers as ``final`` is."""
    if not isinstance(final, Mapping):
        assert not isinstance(first, Mapping)
        return cubic(first, final, progress)
    start = first if isinstance(first, Mapping) else dict.fromkeys(final, first)
    return {name: cubic(start[name], density, progress) for name, density in final.items()}


def magnitudes(net: SparseModel) -> dict[str, Tensor]:
    """Return absolute values of the weights; -1 where pruned, so that an active zero outranks a pruned weight."""
    values = {name: parameter.detach().abs() for name, parameter in net.params.items()}
    return {n: v.masked_fill(~net.masks[n], -1.0) if n in net.masks else v for n, v in values.items()}
