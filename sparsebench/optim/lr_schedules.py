"""Learning-rate schedules: functions of the progress in [0, 1] that return a factor of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Factor = Callable[[float], float]


def warmed(factor: Factor, warmup: float) -> Factor:
    """Rise linearly from zero to the schedule over the first ``warmup`` share of the budget."""
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup {warmup:g} is impossible: choose a share of the budget in [0, 1)")
    return lambda progress: factor(progress) * (min(1.0, progress / warmup) if warmup > 0 else 1.0)


def constant(*, warmup: float = 0.0) -> Factor:
    """Keep the learning rate constant."""
    return warmed(lambda progress: 1.0, warmup)


def step(*, milestones: Sequence[float] = (0.5, 0.75), gamma: float = 0.1, warmup: float = 0.0) -> Factor:
    """Multiply the learning rate by ``gamma`` at each milestone (shares of the budget)."""
    if any(not 0 < m <= 1 for m in milestones):
        raise ValueError(f"milestones {list(milestones)} must be shares of the budget in (0, 1], never steps or epochs")
    return warmed(lambda progress: gamma ** sum(progress >= m for m in milestones), warmup)


def cosine(*, end: float = 0.0, warmup: float = 0.0) -> Factor:
    """Follow half a cosine from 1 to ``end`` over the budget that remains after the warm-up."""

    def factor(progress: float) -> float:
        rest = max(0.0, progress - warmup) / (1 - warmup)
        return end + (1 - end) * (1 + math.cos(math.pi * rest)) / 2

    return warmed(factor, warmup)


def one_cycle(*, peak: float = 0.3) -> Factor:
    """Raise the factor linearly to 1 at ``peak``, then lower it linearly to zero."""
    if not 0 < peak < 1:
        raise ValueError(f"peak {peak:g} is impossible: choose a share of the budget in (0, 1)")
    return lambda progress: progress / peak if progress < peak else max(0.0, (1 - progress) / (1 - peak))
