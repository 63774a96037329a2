"""Closed form of what an iterative recipe costs: the reference beside which rehearsals are tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a recipe costs, before any of it is trained.

    Attributes:
        densities: density of each cycle.
        steps: optimizer steps of each cycle, all particles together.
        ticket: optimizer steps before the first cycle.
        single: optimizer steps of one dense run.
    """

    densities: tuple[float, ...]
    steps: tuple[int, ...]
    ticket: int
    single: int

    @property
    def total(self) -> int:
        """Optimizer steps of the whole recipe."""
        return self.ticket + sum(self.steps)

    @property
    def runs(self) -> float:
        """Dense runs that take as many steps."""
        return self.total / self.single

    @property
    def ideal(self) -> float:
        """Dense runs of equal FLOPs if zeros cost nothing and every layer had the density of the whole."""
        weighed = sum(d * s for d, s in zip(self.densities, self.steps, strict=True))
        return (self.ticket + weighed) / self.single


def cost(
    densities: Sequence[float],
    *,
    steps: int,
    ticket: int = 0,
    first: int = 0,
    particles: int = 1,
    switch: int = 0,
) -> Cost:
    """Return the cost of an iterative recipe; epochs or iterations serve as steps as well.

    Args:
        densities: density of each cycle, as ``schedule_densities`` returns.
        steps: steps of a whole run.
        ticket: steps until the rewinding point.
        first: step of the schedule at which a cycle begins; 0 where it is replayed whole.
        particles: networks of a cycle.
        switch: first cycle with more than one.
    """
    each = [(steps - first) * (particles if cycle >= switch else 1) for cycle in range(len(densities))]
    return Cost(densities=tuple(densities), steps=tuple(each), ticket=ticket, single=steps)
