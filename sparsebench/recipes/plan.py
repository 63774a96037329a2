"""What an iterative recipe will do, settled and checked before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparsebench.functional.random import generator
from sparsebench.methods import Dense
from sparsebench.recipes.cycles import Cost, cost, rewind_step, schedule_densities, switch_cycle
from sparsebench.recipes.fitting import base_rate
from sparsebench.recipes.prune import pruning

if TYPE_CHECKING:
    from sparsebench.recipes.run import Run


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Densities, steps and seeds of an iterative recipe.

    Attributes:
        densities: of each cycle, the first one dense.
        steps: of a whole run.
        rewound: the step that weights, or the learning rate, are rewound to.
        particles: networks of a cycle.
        switch: first cycle with more than one.
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
        """Settle a plan; ``keys`` are what the recipe calls two of its numbers.

        Raises:
            ValueError: it cannot be carried out; one line says why.
        """
        target = pruning(run).density
        densities = schedule_densities(target, share=share, cycles=cycles, hit_target=hit_target)
        if particles < 1 or particles != int(particles):
            raise ValueError(f"recipe.{keys[1]}={particles} is impossible: a cycle trains at least 1 network")
        steps = run.total_steps()
        return cls(
            densities=tuple(densities),
            steps=steps,
            rewound=rewind_step(rewind_to, steps, key=keys[0]),
            particles=particles,
            switch=switch_cycle(switch, len(densities) - 1),
        )

    def ticket(self, rate: float | None = None) -> dict[str, Any]:
        """Return the arguments of the dense fit up to the step rewound to."""
        return {"method": Dense(), "span": (0, self.rewound), "rate": rate}

    @property
    def whole(self) -> dict[str, Any]:
        """The arguments of a fit over the whole schedule."""
        return {"span": (0, self.steps)}

    @property
    def rest(self) -> dict[str, Any]:
        """The arguments of a fit over the schedule from the step rewound to."""
        return {"span": (self.rewound, self.steps)}

    def retraining(self, run: Run, *, retrain: str, replay: str, finetune_rate: float | None) -> dict[str, Any]:
        """Return the arguments of the fits after a pruning.

        Raises:
            ValueError: an unknown word, or fine-tuning at a learning rate of zero.
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
        """Return the numbers of the particles of a cycle."""
        return range(self.particles if cycle >= self.switch else 1)

    def seed(self, run: Run, cycle: int, particle: int = 0) -> int:
        """Return the data-order seed of a particle: the only thing in which particles differ."""
        return generator(run.seed, "particle", cycle, particle).initial_seed()

    def cost(self, *, first: int = 0, ticket: bool = True) -> Cost:
        """Return what the plan costs in steps."""
        steps = self.rewound if ticket else 0
        return cost(
            self.densities, steps=self.steps, ticket=steps, first=first, particles=self.particles, switch=self.switch
        )


def last_rate(run: Run) -> float:
    """Return the learning rate with which the schedule ends.

    Raises:
        ValueError: it is zero.
    """
    module = run.classifier(run.network(), total_steps=1)
    rate = base_rate(module) * (1.0 if module.schedule is None else module.schedule(1.0))
    if rate <= 0:
        raise ValueError(
            "fine-tuning uses the last learning rate, and this schedule ends at zero: give recipe.finetune_rate, or "
            "schedule=step"
        )
    return rate
