"""Rehearse one fit: run the method's hooks over the whole clock on untrained weights.

Two things make it fast. First, steps at which the method does nothing are recognised by passing a stand-in
(``Untouched``) that may not be read: at most steps a method only queries the clock. Second, if masks change too often
for a network of this size, only some changes are carried out, evenly spaced, and densities in between are interpolated;
the plan is then marked as approximate.
"""

from __future__ import annotations

import contextlib
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import Parameter
from torch.optim import Optimizer

from sparsebench.cost.ledger import Ledger
from sparsebench.cost.passes import Passes
from sparsebench.fits import Setup, State
from sparsebench.methods.base import Clock, Method, Probe
from sparsebench.methods.executor import Executor
from sparsebench.sparse import SparseModel

FEW = 40
"""Number of mask changes up to which all are carried out, regardless of the size of the network."""
WORK = 200_000_000
"""Number of weights that a rehearsal of one fit may sort if there are more changes: some seconds on one core."""
LEAST = 9
"""Number of changes that are carried out in any case."""
MOMENTS = 2000
"""Largest number of moments at which interpolated densities are evaluated."""

ESTIMATED = "layers compete for one budget by values that depend on data or training: an estimate"
EMERGES = "the density results from training and cannot be planned: figures hold for the initial density"
MOVES = "the budget moves between layers in training: figures hold for the initial layer densities"
SAMPLED = "masks change too often to rehearse every change in a network of this size: densities are interpolated"


class Touched(Exception):
    """Raised when the method reads the stand-in for a network, so that the step matters."""


class Untouched:
    """Stand-in for a SparseModel at steps where a method only masks gradients."""

    def mask_gradients_(self) -> None:
        """Do nothing, since there are no gradients."""

    def __getattr__(self, name: str) -> Any:
        raise Touched(name)


class Sketch:
    """A fit under rehearsal: its method, clock, ledger and masks.

    Args:
        module: the network, whose weights the method prunes but which is not trained.
        setup: provides the prunable parameters and the optimizer.
        method: what differs from dense training.
        steps: the budget.
        start: initial masks.
    """

    def __init__(self, module: nn.Module, setup: Setup, method: Method, steps: int, start: State | None) -> None:
        self.method, self.total = method, steps
        self.notes: list[str] = []
        self.ledger = Ledger(setup.costs(module))
        self.net = SparseModel(setup.prunable.select(module), seed=setup.seed, module=module)
        if start is not None and start.masks:
            self.net.set_masks(start.masks)
        self.executor = Executor(method, self.net, setup.execution if method is setup.method else None)
        self.net.learned = {name: Parameter(value) for name, value in method.learned(self.net).items()}
        self.optimizer = _optimizer(setup, module, steps, self.net, method)
        self._idle: Any = Untouched()
        self._stated: Passes | None = None
        self._begin(Probe(_no_data, _no_data))

    def _begin(self, probe: Probe) -> None:
        if self.net.masks and self.net.density < 1:
            self._estimated()
        try:
            self.method.start(self.net, probe)
        except _NeedsData:
            self.net.set_masks(self.method.draw_masks(self.net))
            self._estimated()
        if self.method.budget_holds == "never":
            self.notes[:] = [EMERGES]
        if self.method.moves_budget:
            self.notes.append(MOVES)

    # -- time -----------------------------------------------------------------------------------------------------

    def play(self, samples: Callable[[int], int]) -> None:
        """Charge every step of the budget, and leave the masks in their final state.

        Args:
            samples: step -> number of images of this step.
        """
        self.executor.check(Clock(0, self.total))
        events = [] if self.method.budget_holds == "always" else self._events()
        chosen = set(self._choose(events))
        if events:
            self._estimated()
        sampled = len(chosen) < len(events)
        self.notes += [SAMPLED] if sampled else []
        stride = math.ceil(len(events) / MOMENTS) if sampled else 1
        edges = {step + 1 for step in events[::stride]}
        known = [(0, self.net.densities)]
        spans: list[_Span] = []
        for step in range(self.total):
            passes = self._passes(step)
            if not spans or step in edges or passes != spans[-1].passes:
                spans.append(_Span(step, passes))
            spans[-1].samples += samples(step)
            spans[-1].last = step
            if step in chosen:
                known.append((step + 1, self._act(step, last=step == max(chosen))))
        for span in spans:
            moment = span.first if stride == 1 else (span.first + span.last) / 2
            densities = _between(known, moment) if sampled else _at(known, span.first)
            self.ledger.charge(span.passes, densities, span.samples)
        self.executor.finish()

    def _estimated(self) -> None:
        """Note that layers compete for one budget by values that are known only after training."""
        if not isinstance(self.method.budget(self.net), Mapping) and not self.notes:
            self.notes.append(ESTIMATED)

    def _events(self) -> list[int]:
        """Return the steps, by the clock before the step, at which the method reads the network."""
        return [step for step in range(self.total) if not self._passes_by(step)]

    def _passes_by(self, step: int) -> bool:
        clock = Clock(step, self.total)
        try:
            self.method.before_step(self._idle, clock, self.optimizer)
            self.method.after_step(self._idle, clock.after, self.optimizer)
        except Touched:
            return False
        return True

    def _choose(self, events: list[int]) -> list[int]:
        """Return the changes that are carried out: all of them where that is cheap, few where they are estimates."""
        if events and self.method.sizes_after(self.net, Clock(events[0], self.total).after) is not None:
            return events
        weights = sum(p.numel() for p in self.net.params.values())
        shared = not isinstance(self.method.budget(self.net), Mapping)
        most = LEAST if shared else max(LEAST, WORK // weights)
        if len(events) <= max(most, FEW):
            return events
        spread = (len(events) - 1) / (most - 1)
        return [events[round(index * spread)] for index in range(most)]

    @torch.no_grad()
    def _act(self, step: int, *, last: bool) -> dict[str, float]:
        """Return the densities after a change: from its budget if that is enough, except after the last one."""
        clock = Clock(step, self.total)
        self._stated = None
        sizes = None if last or self.net.floor else self.method.sizes_after(self.net, clock.after)
        if sizes is not None:
            return {name: size / self.net.params[name].numel() for name, size in sizes.items()}
        self.method.before_step(self.net, clock, self.optimizer)
        self.method.after_step(self.net, clock.after, self.optimizer)
        return self.net.densities

    def _passes(self, step: int) -> Passes:
        """Query the cost of a step, once per change if it depends on the network."""
        clock = Clock(step, self.total)
        if not self.executor.counts:
            with contextlib.suppress(Touched):
                return self.method.passes(self._idle, clock)
        self._stated = self._stated or self.executor.passes(clock)
        return self._stated


@dataclass
class _Span:
    """Consecutive steps of equal cost, charged together; the sum is the same because MACs are whole numbers."""

    first: int
    passes: Passes
    samples: int = 0
    last: int = 0


Known = list[tuple[int, dict[str, float]]]
"""Moments, and the densities from each moment on."""


def _at(known: Known, moment: float) -> dict[str, float]:
    """Return the densities at a moment when every change is known."""
    return known[bisect_right(known, moment, key=lambda pair: pair[0]) - 1][1]


def _between(known: Known, moment: float) -> dict[str, float]:
    """Return the densities at a moment among sampled changes: cubic through four of them, within their range.

    Gradual pruning follows a cubic curve, so its interpolation is exact up to rounding to whole weights.
    """
    place = bisect_right(known, moment, key=lambda pair: pair[0])
    if place == len(known) or place < 2 or known[place - 1][0] == moment:
        return known[place - 1][1]  # at a known change, before the first, or after the last
    start = min(max(1, place - 2), len(known) - 4)
    near = known[start : start + 4]
    shares = [math.prod((moment - b) / (a - b) for b, _ in near if b != a) for a, _ in near]
    low, high = known[place - 1][1], known[place][1]

    def inside(name: str) -> float:
        value = sum(share * densities[name] for share, (_, densities) in zip(shares, near, strict=True))
        return min(max(value, min(low[name], high[name])), max(low[name], high[name]))

    return {name: inside(name) for name in low}


class _NeedsData(Exception):
    """Raised when a method requests data, which a rehearsal does not have."""


def _no_data(*_: Any, **__: Any) -> Any:
    raise _NeedsData


def _optimizer(setup: Setup, module: nn.Module, steps: int, net: SparseModel, method: Method) -> Optimizer:
    classifier = setup.classifier(module, total_steps=steps)
    if net.learned:
        classifier.extra_groups.append({"params": list(net.learned.values()), **method.learned_options()})
    made: Any = classifier.configure_optimizers()
    return made["optimizer"] if isinstance(made, Mapping) else made
