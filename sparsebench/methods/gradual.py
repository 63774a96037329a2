"""Pruning from dense to sparse in one run: gradual or one-shot, with score and curve as values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from torch import Tensor
from torch.optim import Optimizer

from sparsebench.functional.counts import Budget
from sparsebench.functional.distribution import uniform
from sparsebench.functional.schedule import Schedule, cubic
from sparsebench.functional.score import Score, grasp, linearized, magnitude, synflow
from sparsebench.methods.base import Clock, Distribution, Masked
from sparsebench.sparse.model import SparseModel


@dataclass(frozen=True, kw_only=True)
class Scored(Masked):
    """Prune during training by a score of the active weights.

    Args:
        score: (objective, params) -> a number for each weight; the largest stay. ``magnitude``, ``snip`` (saliency) or
            ``gradient`` from ``functional.score``, or another first-order score. The gradient of the objective is the
            gradient of the step just taken.
    """

    score: Score = magnitude

    def __post_init__(self) -> None:
        super().__post_init__()
        if (function := _function(self.score)) in (grasp, synflow):
            name = function.__name__
            raise ValueError(
                f"score={name} needs more than the gradient of a step, which is all that pruning during training has: "
                f"choose magnitude, snip or gradient, or method={name}"
            )

    def prunes(self, clock: Clock) -> bool:
        """Return True if weights are pruned at this moment."""
        raise NotImplementedError

    def before_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Store the gradient if the score needs it, then mask it."""
        if self.prunes(clock.after) and _function(self.score) is not magnitude:
            net.memory["gradient"] = {name: slope.detach().clone() for name, slope in net.gradients().items()}
        super().before_step(net, clock, optimizer)

    def rank(self, net: SparseModel) -> dict[str, Tensor]:
        """Return the scores, with pruned weights last, so that an active weight of score 0 outranks them."""
        slopes = net.memory.pop("gradient", {})
        scores = self.score(objective=linearized(slopes), params=dict(net.params))
        return {
            n: s.masked_fill(~net.masks[n], -math.inf if (s < 0).any() else -1.0) if n in net.masks else s
            for n, s in scores.items()
        }


@dataclass(frozen=True, kw_only=True)
class GMP(Scored):
    """Remove the smallest magnitudes step by step along a cubic curve (Zhu & Gupta 2017).

    At progress p from ``start_at`` to ``until`` every layer has density ``d + (1 - d)(1 - p)^3``, where d is its
    final density. Masks are nested: a pruned weight never returns. Score and curve are values: ``score=snip`` is
    gradual SNIP, ``distribution=global_budget`` ranks all layers together.

    Args:
        every: steps between prunings (a fraction of the budget when below 1).
        start_at: first pruning, as a fraction of the budget.
        until: moment at which the budget is reached exactly, as a fraction of the budget.
        schedule: (density 1, final density, progress) -> density.
    """

    paper: ClassVar[str] = "zhu_gupta"
    budget_holds: ClassVar[str] = "end"

    distribution: Distribution = uniform
    every: float = 100
    start_at: float = 0.0
    until: float = 0.75
    schedule: Schedule = cubic

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every <= 0 or not 0 <= self.start_at < self.until <= 1:
            raise ValueError(
                f"start_at={self.start_at:g}, until={self.until:g}, every={self.every:g}: "
                f"0 <= start_at < until <= 1 and every > 0 are needed"
            )

    def prunes(self, clock: Clock) -> bool:
        """Return True if this moment is on schedule; ``until`` always is, for any period."""
        last = clock.step == round(self.until * clock.total)
        return clock.due(self.every, self.start_at, self.until) or last

    def after_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Prune if on schedule."""
        if self.prunes(clock):
            net.set_masks(self.prune(net, clock.between(self.start_at, self.until)), optimizer)

    def prune(self, net: SparseModel, progress: float) -> dict[str, Tensor]:
        """Return masks of the largest scores at this progress, within the current masks."""
        return self.pattern.keep(self.rank(net), self.budget_at(net, progress))

    def budget_at(self, net: SparseModel, progress: float) -> Budget:
        """Return the weights that the curve leaves at this progress."""
        share = thin(1.0, self.distribution(net.shapes, self.density), progress, self.schedule)
        return self.pattern.budget(net.shapes, share)

    def sizes_after(self, net: SparseModel, clock: Clock) -> Mapping[str, int] | None:
        """Return the budget of each layer, where every layer has its own."""
        budget = self.budget_at(net, clock.between(self.start_at, self.until))
        return budget if isinstance(budget, Mapping) else None


@dataclass(frozen=True, kw_only=True)
class OneShot(Scored):
    """Train densely, remove the weights with the smallest scores at once, and fine-tune the others.

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

    def prunes(self, clock: Clock) -> bool:
        """Return True at the moment of pruning."""
        return clock.step == max(1, round(self.at * clock.total))

    def after_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Prune at the scheduled step."""
        if self.prunes(clock):
            net.set_masks(self.pattern.keep(self.rank(net), self.budget(net)), optimizer)


def _function(score: Score) -> Any:
    """Return the function itself, without options bound to it."""
    return score.func if isinstance(score, partial) else score


def thin(
    first: Mapping[str, float] | float,
    final: Mapping[str, float] | float,
    progress: float,
    schedule: Schedule = cubic,
) -> Mapping[str, float] | float:
    """Return the densities between two moments of gradual pruning, per layer or global, like ``final``."""
    if not isinstance(final, Mapping):
        assert not isinstance(first, Mapping)
        return schedule(first, final, progress)
    start = first if isinstance(first, Mapping) else dict.fromkeys(final, first)
    return {name: schedule(start[name], density, progress) for name, density in final.items()}


def magnitudes(net: SparseModel) -> dict[str, Tensor]:
    """Return absolute values of the weights; -1 where pruned, so that an active zero outranks a pruned weight."""
    values = {name: parameter.detach().abs() for name, parameter in net.params.items()}
    return {n: v.masked_fill(~net.masks[n], -1.0) if n in net.masks else v for n, v in values.items()}
