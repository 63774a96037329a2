"""Rehearse a run: the same recipe, method, clock and ledger, without a forward or backward pass.

How the cost of training is known before training: a recipe is a program over ``Run.fit``, and a method is a program
over the hooks of a step. So both are executed, on the real network, with the real optimizer (which never steps); what
is left out is data, passes and gradients, which do not decide how many weights stay. The method states what each step
costs, as it does in training, and the same ``Ledger`` adds it up: the figures of a rehearsal and of a run are equal to
the last digit wherever counts do not depend on the values of weights.

The other way, a hook by which each method tells its densities in advance, was not taken: every method, also one that
somebody else has written, would have to say the same thing twice, and the two could disagree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from sparsebench.app.plan.dry_fit import Sketch
from sparsebench.fits import Run, State
from sparsebench.methods import Method


@dataclass(frozen=True)
class Length:
    """How long training lasts.

    Attributes:
        images: training images.
        batch: images of one forward over all devices.
        accumulate: forwards of one optimizer step.
        limit: batches of an epoch that are used: a number, or a share as a float.
    """

    images: int
    batch: int
    accumulate: int = 1
    limit: int | float = 1.0

    def steps(self, max_epochs: int | None, max_steps: int | None) -> int:
        """Return the optimizer steps of a fit."""
        ends = [self.epoch * max_epochs] if max_epochs is not None and max_epochs >= 0 else []
        ends += [max_steps] if max_steps is not None and max_steps >= 0 else []
        if not ends or min(ends) < 1:
            raise ValueError("training has no end or no step: set trainer.max_epochs or trainer.max_steps to 1 or more")
        return min(ends)

    def samples(self, step: int) -> int:
        """Return the images of one optimizer step; the last one of an epoch may have fewer forwards."""
        size = min(self.batch, self.images)
        place = step % self.epoch
        return size * min(self.accumulate, self._batches - place * self.accumulate)

    def epochs(self, steps: int) -> float:
        """Return how many epochs so many steps are, a whole number where they are."""
        return steps // self.epoch if steps % self.epoch == 0 else steps / self.epoch

    @property
    def _batches(self) -> int:
        whole = max(1, self.images // self.batch)
        return min(whole, self.limit) if isinstance(self.limit, int) else int(whole * self.limit)

    @property
    def epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return math.ceil(self._batches / self.accumulate)


class Blind:
    """Stand in for data: shape and classes are known, images are not there."""

    def __init__(self, data: Any) -> None:
        self.shape, self.classes, self.batch_size, self.order_seed = data.shape, data.classes, data.batch_size, 0

    def training_sets(self) -> tuple[None, None]:
        """Return neither training nor validation images."""
        return None, None


def blindfold(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a recipe that does not look at data between its fits."""
    nothing = {"recalibrate": False, "barrier": 0, "hessian": 0}
    return {**recipe, "look": {**recipe["look"], **nothing}} if "look" in recipe else dict(recipe)


@dataclass(kw_only=True)
class Rehearsal(Run):
    """A run whose fits cost what they cost and learn nothing.

    Args:
        length: how long an epoch is.
        settings: the trainer's ``max_epochs`` and ``max_steps``, unless a fit brings its own.

    Attributes:
        notes: why a figure is not exact.
        twins: the last fit and what it was asked for: particles that differ in the order of data alone cost the same.
    """

    length: Length
    settings: Mapping[str, Any]
    notes: list[str] = field(default_factory=list)
    twins: list[tuple[Any, State]] = field(default_factory=list)

    @classmethod
    def of(cls, run: Run, folder: Path, *, length: Length, settings: Mapping[str, Any]) -> Rehearsal:
        """Rehearse this run; ``folder`` is for recipes that write, and may vanish afterwards."""
        parts = {f.name: getattr(run, f.name) for f in fields(Run) if f.init and not f.name.startswith("_")}
        return cls(**{**parts, "folder": folder, "data": Blind(run.data)}, length=length, settings=settings)

    def fit(
        self,
        name: str,
        start: State | None = None,
        *,
        method: Method | None = None,
        span: tuple[int, int] | None = None,
        seed: int | None = None,
        rate: float | None = None,
        average: Any = None,
        **budget: Any,
    ) -> State:
        """Charge what the fit would cost, and return its masks on untrained weights."""
        del seed, rate, average
        first, last = span or (0, self.total_steps(**budget))
        idle = first == last
        state = (start or self.initial()) if idle else self._play(start, method or self.method, last - first)
        self.fits[f"{self.prefix}{name}"] = state.facts
        return state

    def _play(self, start: State | None, method: Method, steps: int) -> State:
        for (begun, used, lasted), state in self.twins:
            if begun is start and used == method and lasted == steps:
                return state
        torch.manual_seed(self.seed)
        module = self.network()
        if start is not None:
            module.load_state_dict(dict(start.weights))
        sketch = Sketch(module, self, method, steps, start)
        sketch.play(self.length.samples)
        self.notes += [note for note in sketch.notes if note not in self.notes]
        weights = {key: value.detach() for key, value in module.state_dict().items()}
        state = State(weights, dict(sketch.net.masks), _facts(sketch, self.length, steps))
        self.twins[:] = [((start, method, steps), state)]
        return state

    def fit_all(self, fits: Mapping[str, Mapping[str, Any]]) -> list[State]:
        """Make fits one after the other: nobody else is there."""
        return [self.fit(name, **arguments) for name, arguments in fits.items()]

    def memo(self, name: str, make: Callable[[], State]) -> State:
        """Make a state anew: nothing is saved."""
        del name
        return make()

    def total_steps(self, **budget: Any) -> int:
        """Return the optimizer steps of a whole fit."""
        # as the trainer has it: a fit's own number of epochs keeps the run's number of steps
        wanted = {**{key: self.settings.get(key) for key in ("max_epochs", "max_steps")}, **budget}
        return self.length.steps(wanted["max_epochs"], wanted["max_steps"])

    def epoch_steps(self, **budget: Any) -> int:
        """Return the optimizer steps of an epoch."""
        del budget
        return self.length.epoch

    @property
    def device(self) -> torch.device:
        """Where a rehearsal takes place, whatever the run is made for."""
        return torch.device("cpu")

    def evaluate(self, state: State, *, split: str = "test") -> dict[str, float]:
        """Measure nothing: every accuracy is zero."""
        del state
        prefix = "test" if split == "test" else "val"
        return {f"{prefix}_accuracy": 0.0, f"{prefix}_top5": 0.0, f"{prefix}_loss": 0.0}


def _facts(sketch: Sketch, length: Length, steps: int) -> dict[str, Any]:
    return {"steps": steps, "epochs": length.epochs(steps), **sketch.ledger.figures}
