"""Rehearse a run: the same recipe, method, clock and ledger, without a forward or backward pass.

A recipe is a program over ``Run.fit``, and a method is a program over the hooks of a step. A rehearsal executes both,
on the real network and with the real optimizer (which never steps), but without data, passes and gradients, which do
not affect how many weights stay. The method states the cost of each step, as in training, and the same ``Ledger`` adds
it up. If counts do not depend on the values of weights, the rehearsal and the run have the same figures to the last
digit.

The alternative, a hook by which each method reports its densities in advance, was rejected: every method, including
foreign ones, would have to implement its rule twice, and the two versions could disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from sparsebench.app.plan.dry_fit import Sketch
from sparsebench.fits import Numbers, Run, Setup, Stages, State
from sparsebench.fits.length import epochs_of, steps_of_epoch, steps_of_fit, used_batches
from sparsebench.methods import Method


@dataclass(frozen=True)
class Length:
    """Length of training: epochs, steps and batches.

    Attributes:
        images: number of training images.
        batch: number of images of one forward pass over all devices.
        accumulate: number of forward passes of one optimizer step.
        limit: used batches of an epoch: a number, or a share as a float.
    """

    images: int
    batch: int
    accumulate: int = 1
    limit: int | float = 1.0

    def steps(self, max_epochs: int | None, max_steps: int | None) -> int:
        """Return the optimizer steps of a fit."""
        return steps_of_fit(self.epoch, max_epochs, max_steps)

    def samples(self, step: int) -> int:
        """Return the images of an optimizer step; the last step of an epoch may have fewer forward passes."""
        size = min(self.batch, self.images)
        place = step % self.epoch
        return size * min(self.accumulate, self._batches - place * self.accumulate)

    def epochs(self, steps: int) -> float:
        """Return the number of epochs in ``steps`` steps, an int if whole."""
        return epochs_of(steps, self.epoch)

    @property
    def _batches(self) -> int:
        return used_batches(max(1, self.images // self.batch), self.limit)

    @property
    def epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return steps_of_epoch(self._batches, self.accumulate)


@dataclass(frozen=True, kw_only=True)
class RehearsalSetup(Setup):
    """A setup without images and trainers: the length of training is given, and measurements are skipped.

    Args:
        length: length of an epoch.
        settings: the trainer's ``max_epochs`` and ``max_steps``, unless a fit overrides them.
    """

    length: Length
    settings: Mapping[str, Any]

    def numbers(self, **budget: Any) -> Numbers:
        """Return the length of a fit, always on the CPU."""
        # as in the trainer: a fit's own number of epochs keeps the run's number of steps
        wanted = {**{key: self.settings.get(key) for key in ("max_epochs", "max_steps")}, **budget}
        return Numbers(self.length.epoch, wanted["max_epochs"], wanted["max_steps"])

    def training_sets(self) -> tuple[None, None]:
        """Return neither training nor validation images."""
        return None, None


@dataclass(frozen=True, kw_only=True)
class Rehearsal(Run):
    """A run that accounts for the cost of its fits but trains nothing, and neither reads nor writes files.

    Attributes:
        notes: reasons why a figure is not exact.
        twins: the last fit and its arguments, reused for particles that differ only in the order of data.
    """

    setup: RehearsalSetup
    notes: list[str] = field(default_factory=list)
    twins: list[tuple[Any, State]] = field(default_factory=list)

    @classmethod
    def of(cls, setup: Setup, *, length: Length, settings: Mapping[str, Any]) -> Rehearsal:
        """Create the rehearsal of a run with this setup."""
        parts = {f.name: getattr(setup, f.name) for f in fields(Setup) if not f.name.startswith("_")}
        return cls(setup=RehearsalSetup(**parts, length=length, settings=settings), stages=Stages(Path()))

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
        alone: bool = False,
        **budget: Any,
    ) -> State:
        """Charge the cost of a fit, and return its masks on untrained weights."""
        del seed, rate, average, alone
        first, last = span or (0, self.setup.total_steps(**budget))
        idle = first == last
        state = (start or self.initial()) if idle else self._play(start, method or self.setup.method, last - first)
        self.journal.note_fit(self.stages.full_name(name), state.facts)
        return state

    def _play(self, start: State | None, method: Method, steps: int) -> State:
        for (begun, used, lasted), state in self.twins:
            if begun is start and used == method and lasted == steps:
                return state
        torch.manual_seed(self.setup.seed)
        module = self.setup.network()
        if start is not None:
            module.load_state_dict(dict(start.weights))
        sketch = Sketch(module, self.setup, method, steps, start)
        sketch.play(self.setup.length.samples)
        self.notes.extend(note for note in sketch.notes if note not in self.notes)
        weights = {key: value.detach() for key, value in module.state_dict().items()}
        state = State(weights, dict(sketch.net.masks), _facts(sketch, self.setup.length, steps))
        self.twins[:] = [((start, method, steps), state)]
        return state

    def fit_all(self, fits: Mapping[str, Mapping[str, Any]]) -> list[State]:
        """Rehearse fits one after the other."""
        return [self.fit(name, **arguments) for name, arguments in fits.items()]

    def memo(self, name: str, make: Callable[[], State]) -> State:
        """Make a state without saving it."""
        del name
        return make()


def _facts(sketch: Sketch, length: Length, steps: int) -> dict[str, Any]:
    return {"steps": steps, "epochs": length.epochs(steps), **sketch.ledger.figures}
