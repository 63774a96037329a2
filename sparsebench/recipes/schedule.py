"""The plan of an iterative recipe, computed and checked before training starts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparsebench.functional.random import generator
from sparsebench.methods import Dense
from sparsebench.recipes.pruning import pruning

if TYPE_CHECKING:
    from sparsebench.fits.run import Run

HITS = ("last_step", "geometric", "none")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Densities, steps and seeds of an iterative recipe.

    Attributes:
        densities: density of each cycle; the first one is dense.
        steps: number of steps of a whole run.
        rewound: the step to which weights, or the learning rate, are rewound.
        particles: number of networks per cycle.
        switch: first cycle with more than one particle.
    """

    densities: tuple[float, ...]
    steps: int
    rewound: int
    particles: int = 1
    switch: int = 0

    @classmethod
    def of(
        cls,
        run: Run,
        *,
        share: float,
        cycles: int | None,
        hit_target: str,
        rewind_to: float,
        particles: int = 1,
        switch: float = 0,
        keys: tuple[str, str] = ("rewind_to", "particles"),
    ) -> Plan:
        """Compute a plan; ``keys`` are the recipe's names of two of its numbers.

        Args:
            run: the training setup; its method gives the target density.
            share: share of the remaining weights that a cycle removes.
            cycles: number of prunings; None for as many as needed.
            hit_target: ``last_step``, ``geometric`` or ``none``; see ``schedule_densities``.
            rewind_to: rewind step, as a share of a run if below 1, otherwise a number of steps.
            particles: number of networks per cycle.
            switch: first cycle with several particles; a share of the cycles if below 1.
            keys: names of ``rewind_to`` and ``particles`` in the recipe.

        Raises:
            ValueError: the plan cannot be carried out; the message says why.
        """
        target = pruning(run).density
        densities = schedule_densities(target, share=share, cycles=cycles, hit_target=hit_target)
        if particles < 1 or particles != int(particles):
            raise ValueError(f"recipe.{keys[1]}={particles} is impossible: a cycle trains at least 1 network")
        steps = run.setup.total_steps()
        return cls(
            densities=tuple(densities),
            steps=steps,
            rewound=rewind_step(rewind_to, steps, key=keys[0]),
            particles=particles,
            switch=switch_cycle(switch, len(densities) - 1),
        )

    def ticket(self, rate: float | None = None) -> dict[str, Any]:
        """Return the arguments of the dense fit up to the rewind step."""
        return {"method": Dense(), "span": (0, self.rewound), "rate": rate}

    @property
    def whole(self) -> dict[str, Any]:
        """Arguments of a fit over the whole schedule."""
        return {"span": (0, self.steps)}

    @property
    def rest(self) -> dict[str, Any]:
        """Arguments of a fit over the schedule from the rewind step on."""
        return {"span": (self.rewound, self.steps)}

    def retraining(self, run: Run, *, retrain: str, replay: str, finetune_rate: float | None) -> dict[str, Any]:
        """Return the arguments of the fits after a pruning.

        Args:
            run: the training setup.
            retrain: start of a cycle: ``weights`` takes the weights of the rewind step; ``learning_rate`` takes the
                final weights and rewinds the learning rate; ``finetune`` takes the final weights and keeps the last
                learning rate.
            replay: part of the schedule to repeat after rewinding weights: the ``whole``, or the ``rest`` from the
                rewind step.
            finetune_rate: learning rate of fine-tuning; None for the last of the schedule.

        Raises:
            ValueError: a word is unknown, or fine-tuning would use a learning rate of zero.
        """
        if retrain not in ("weights", "learning_rate", "finetune"):
            raise ValueError(f"recipe.retrain={retrain} is unknown: choose weights, learning_rate or finetune")
        if replay not in ("whole", "rest"):
            raise ValueError(f"recipe.replay={replay} is unknown: choose whole or rest")
        if retrain == "weights":
            return self.whole if replay == "whole" else self.rest
        if retrain == "learning_rate":
            return self.rest
        return {**self.rest, "rate": last_rate(run) if finetune_rate is None else finetune_rate}

    def numbers(self, cycle: int) -> range:
        """Return the numbers of the particles in a cycle."""
        return range(self.particles if cycle >= self.switch else 1)

    def seed(self, run: Run, cycle: int, particle: int = 0) -> int:
        """Return the data-order seed of a particle: the only difference between particles."""
        return generator(run.seed, "particle", cycle, particle).initial_seed()


def last_rate(run: Run) -> float:
    """Return the learning rate at the end of the schedule.

    Raises:
        ValueError: the rate is zero.
    """
    rate = run.setup.rate(1.0)
    if rate <= 0:
        raise ValueError(
            "fine-tuning uses the last learning rate, and this schedule ends at zero: give recipe.finetune_rate, or "
            "schedule=step"
        )
    return rate


def schedule_densities(
    density: float, *, share: float = 0.2, cycles: int | None = None, hit_target: str = "last_step"
) -> list[float]:
    """Return the density of every cycle, starting with 1: one entry more than the number of prunings.

    Args:
        density: the target.
        share: share of the remaining weights that a cycle removes.
        cycles: number of prunings; by default as many as the target needs.
        hit_target: ``last_step``: the last pruning removes less, so that the target is met exactly; ``geometric``:
            equal shares that meet it exactly, ``1 - density^(1 / cycles)`` instead of ``share``; ``none``: the final
            density results from whole shares.

    Raises:
        ValueError: a number is out of range, or the cycles do not reach the target.
    """
    if hit_target not in HITS:
        raise ValueError(f"recipe.hit_target={hit_target} is unknown: choose {', '.join(HITS)}")
    if not 0 < share < 1:
        raise ValueError(
            f"recipe.share={share:g} is impossible: a cycle removes a share in (0, 1) of the remaining weights"
        )
    if cycles is not None and (cycles < 1 or cycles != int(cycles)):
        raise ValueError(
            f"recipe.cycles={cycles} is impossible: prune at least once, or give null for as many as needed"
        )
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
    """Return the step to which weights are rewound.

    Args:
        rewind_to: a share of the steps of a cycle if below 1, otherwise a number of steps.
        total: number of steps of a cycle.
        key: name of ``rewind_to`` in the configuration.

    Raises:
        ValueError: the step does not lie within a cycle.
    """
    step = round(rewind_to * total) if rewind_to < 1 else round(rewind_to)
    if not rewind_to >= 0 or step >= total:
        raise ValueError(
            f"recipe.{key}={rewind_to:g} is step {step}, and a cycle ends at step {total}: "
            f"choose a share in [0, 1) of a cycle, or at most {total - 1} steps"
        )
    return step


def switch_cycle(switch: float, cycles: int) -> int:
    """Return the first cycle with several particles; ``switch`` is a share of the prunings if below 1."""
    cycle = round(switch * cycles) if switch < 1 else round(switch)
    if not 0 <= cycle <= cycles:
        raise ValueError(
            f"recipe.switch={switch:g} lies after the last cycle, {cycles}: choose at most that, or below 1"
        )
    return cycle
