"""The plan of an iterative recipe, as plain numbers: densities of its cycles, steps, and what they will cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

HITS = ("last_step", "geometric", "none")


def schedule_densities(
    density: float, *, share: float = 0.2, cycles: int | None = None, hit_target: str = "last_step"
) -> list[float]:
    """Return the density of every cycle, the first one dense: one entry more than there are prunings.

    Args:
        density: the target.
        share: part of the remaining weights that a cycle removes.
        cycles: number of prunings; as many as the target needs by default.
        hit_target: ``last_step``: the last pruning is cut short so that the target is met exactly; ``geometric``:
            equal shares that meet it exactly, ``1 - density^(1 / cycles)`` instead of ``share``; ``none``: the density
            reached by whole shares is what it is.

    Raises:
        ValueError: a number out of its range, or a target that the cycles do not reach.
    """
    if hit_target not in HITS:
        raise ValueError(f"recipe.hit_target={hit_target} is unknown: choose {', '.join(HITS)}")
    if not 0 < share < 1:
        raise ValueError(f"recipe.share={share:g} is impossible: a cycle removes a share in (0, 1) of what is left")
    if cycles is not None and (cycles < 1 or cycles != int(cycles)):
        raise ValueError(f"recipe.cycles={cycles} is impossible: prune at least once, or give null for as needed")
    needed = 0 if density == 1 else math.ceil(math.log(density) / math.log1p(-share) - 1e-9)
    count = needed if cycles is None else cycles
    if hit_target == "geometric":
        return [density ** (cycle / count) for cycle in range(count)] + [density] if count else [1.0]
    if hit_target == "last_step" and count < needed:
        reached = 1 - (1 - share) ** count
        raise ValueError(
            f"sparsity {1 - density:g} is not reached by {count} cycles of {share:g}, which end at {reached:.4g}: "
            f"give recipe.cycles={needed}, a larger recipe.share, or recipe.hit_target=geometric or none"
        )
    if hit_target == "last_step":
        return [max(density, (1 - share) ** cycle) for cycle in range(needed)] + [density] if needed else [1.0]
    return [(1 - share) ** cycle for cycle in range(count + 1)]


def rewind_step(rewind_to: float, total: int, *, key: str = "rewind_to") -> int:
    """Return the step that weights are rewound to.

    Args:
        rewind_to: a share of the steps of a cycle below 1, a number of steps from 1 on.
        total: steps of a cycle.
        key: what the user calls it.

    Raises:
        ValueError: it does not lie within a cycle.
    """
    step = round(rewind_to * total) if rewind_to < 1 else round(rewind_to)
    if not rewind_to >= 0 or step >= total:
        raise ValueError(
            f"recipe.{key}={rewind_to:g} is step {step}, and a cycle ends at step {total}: "
            f"choose a share in [0, 1) of a cycle, or at most {total - 1} steps"
        )
    return step


def switch_cycle(switch: float, cycles: int) -> int:
    """Return the first cycle with several particles: a share of the prunings below 1, a cycle from 1 on."""
    cycle = round(switch * cycles) if switch < 1 else round(switch)
    if not 0 <= cycle <= cycles:
        raise ValueError(
            f"recipe.switch={switch:g} lies after the last cycle, {cycles}: choose at most that, or below 1"
        )
    return cycle


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
