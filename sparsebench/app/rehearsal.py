"""Rehearse a run: the same recipe, method, clock and ledger, without a forward or backward pass.

How the cost of training is known before training: a recipe is a program over ``Run.fit``, and a method is a program
over the hooks of a step. So both are executed, on the real network, with the real optimizer (which never steps); what
is left out is data, passes and gradients, which do not decide how many weights stay. The method states what each step
costs, as it does in training, and the same ``Ledger`` adds it up: the figures of a rehearsal and of a run are equal to
the last digit wherever counts do not depend on the values of weights.

The other way, a hook by which each method tells its densities in advance, was not taken: every method, also one that
somebody else has written, would have to say the same thing twice, and the two could disagree.

Two things make it fast. A step at which the method does not act is recognised by handing the method a stand-in
(``Untouched``) that may not be read: most steps are only a question to the clock. And where the steps at which masks
change are too many for a network of this size, only some of them are carried out, evenly spread, and densities in
between are interpolated; the plan then says that it is approximate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

from sparsebench.cost.flops import layer_costs
from sparsebench.cost.ledger import Ledger
from sparsebench.cost.passes import Passes
from sparsebench.methods.base import Clock, Masked, Method, Probe
from sparsebench.methods.static import draw_scores
from sparsebench.recipes import Run, State
from sparsebench.sparse import SparseModel

WORK = 400_000_000
"""Weights that a rehearsal of one fit may sort: what fits into some seconds on one core."""
LEAST_EVENTS = 12
"""Changes of the masks that are carried out even in the largest network."""

ESTIMATED = "layers compete for one budget by values that data or training decide: an estimate"
EMERGES = "the density emerges in training and cannot be planned: figures hold for the density at the start"
SAMPLED = "masks change too often to rehearse every change in a network of this size: densities are interpolated"


class Touched(Exception):
    """The stand-in for a network was read: the method acts."""


class Untouched:
    """Stand in for a SparseModel at steps where a method does nothing but mask gradients."""

    def mask_gradients_(self) -> None:
        """Do nothing: there are no gradients."""

    def __getattr__(self, name: str) -> Any:
        raise Touched(name)


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
        ends = [self._each * max_epochs] if max_epochs is not None and max_epochs >= 0 else []
        ends += [max_steps] if max_steps is not None and max_steps >= 0 else []
        if not ends or min(ends) < 1:
            raise ValueError("training has no end or no step: set trainer.max_epochs or trainer.max_steps to 1 or more")
        return min(ends)

    def samples(self, step: int) -> int:
        """Return the images of one optimizer step; the last one of an epoch may have fewer forwards."""
        size = min(self.batch, self.images)
        place = step % self._each
        return size * min(self.accumulate, self._batches - place * self.accumulate)

    def epochs(self, steps: int) -> int:
        """Return the epochs that are finished after this many steps."""
        return steps // self._each

    @property
    def _batches(self) -> int:
        whole = max(1, self.images // self.batch)
        return min(whole, self.limit) if isinstance(self.limit, int) else int(whole * self.limit)

    @property
    def _each(self) -> int:
        return math.ceil(self._batches / self.accumulate)


@dataclass(kw_only=True)
class Rehearsal(Run):
    """A run whose fits cost what they cost and learn nothing.

    Args:
        length: how long an epoch is.
        settings: the trainer's ``max_epochs`` and ``max_steps``, unless a fit brings its own.

    Attributes:
        totals: dense and active training FLOPs, steps and epochs, over all fits.
        notes: why a figure is not exact.
    """

    length: Length
    settings: Mapping[str, Any]
    totals: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("dense", "train", "steps", "epochs"), 0))
    notes: list[str] = field(default_factory=list)
    _done: dict[str, State] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Run, folder: Path, *, length: Length, settings: Mapping[str, Any]) -> Rehearsal:
        """Rehearse this run; ``folder`` is for recipes that write, and may vanish afterwards."""
        parts = {f.name: getattr(run, f.name) for f in fields(Run) if f.init and not f.name.startswith("_")}
        return cls(**{**parts, "folder": folder}, length=length, settings=settings)

    def fit(
        self,
        name: str,
        start: State | None = None,
        *,
        seed: int | None = None,
        method: Method | None = None,
        **budget: Any,
    ) -> State:
        """Charge what the fit would cost and return its masks on untrained weights; a known name costs nothing."""
        if name in self._done:
            return self._done[name]
        method = method or self.method
        torch.manual_seed(self.seed)
        module = self.network()
        if start is not None:
            module.load_state_dict(dict(start.weights))
        steps = self._steps(budget)
        sketch = Sketch(module, self, method, steps, start)
        sketch.play(self.length)
        self._add(sketch, steps)
        weights = {key: value.detach() for key, value in module.state_dict().items()}
        self._done[name] = State(weights, dict(sketch.net.masks), _facts(sketch, self.length, steps))
        return self._done[name]

    def evaluate(self, state: State, *, split: str = "test") -> dict[str, float]:
        """Measure nothing: every accuracy is zero."""
        prefix = "test" if split == "test" else "val"
        return {f"{prefix}_accuracy": 0.0, f"{prefix}_top5": 0.0, f"{prefix}_loss": 0.0}

    def _steps(self, budget: Mapping[str, Any]) -> int:
        # a fit with its own number of epochs is not cut by the run's number, and keeps the run's number of steps
        wanted = {**{key: self.settings.get(key) for key in ("max_epochs", "max_steps")}, **budget}
        return self.length.steps(wanted["max_epochs"], wanted["max_steps"])

    def _add(self, sketch: Sketch, steps: int) -> None:
        self.totals["dense"] += sketch.ledger.dense_flops
        self.totals["train"] += sketch.ledger.train_flops
        self.totals["steps"] += steps
        self.totals["epochs"] += self.length.epochs(steps)
        self.notes += [note for note in sketch.notes if note not in self.notes]


class Sketch:
    """One fit in rehearsal.

    Args:
        module: the network, whose weights the method prunes but nobody trains.
        run: says what may be sparse and which optimizer there is.
        method: what differs from dense training.
        steps: the budget.
        start: masks to begin with.
    """

    def __init__(self, module: nn.Module, run: Run, method: Method, steps: int, start: State | None) -> None:
        self.method, self.total = method, steps
        self.notes: list[str] = []
        self.ledger = Ledger(layer_costs(module, torch.zeros(1, *run.data.shape)))
        self.net = SparseModel(run.prunable.select(module), seed=run.seed)
        if start is not None and start.masks:
            self.net.set_masks(start.masks)
        self.net.learned = {name: Parameter(value) for name, value in method.learned(self.net).items()}
        self.optimizer = _optimizer(run, module, steps, self.net, method)
        self._idle: Any = Untouched()
        self._stated: Passes | None = None
        self._begin(Probe(_no_data, _no_data))

    def _begin(self, probe: Probe) -> None:
        try:
            self.method.start(self.net, probe)
        except _NeedsData:
            self.net.set_masks(self._drawn())
            self._estimated()
        if self.method.budget_holds == "never" and type(self.method) is not Method:
            self.notes.append(EMERGES)

    def _drawn(self) -> dict[str, Tensor]:
        """Return random masks that spend the method's budget: data would choose others, of the same size."""
        scores = draw_scores(self.net, "start")
        if not isinstance(self.method, Masked):
            return {name: torch.ones_like(score, dtype=torch.bool) for name, score in scores.items()}
        return self.method.pattern.keep(scores, self.method.budget(self.net))

    # -- time -----------------------------------------------------------------------------------------------------

    def play(self, length: Length) -> None:
        """Charge every step of the budget, and leave the masks as they are at its end."""
        events = [] if self.method.budget_holds == "always" else self._events()
        chosen = set(self._choose(events))
        if events:
            self._estimated()
        if len(chosen) < len(events):
            self.notes.append(SAMPLED)
        edges = {step + 1 for step in events}
        known = [(0, self.net.densities)]
        spans: list[_Span] = []
        for step in range(self.total):
            passes = self._passes(step)
            if not spans or step in edges or passes != spans[-1].passes:
                spans.append(_Span(step, passes))
            spans[-1].samples += length.samples(step)
            if step in chosen:
                self._act(step)
                known.append((step + 1, self.net.densities))
        self._charge(spans, known)
        self.method.finish(self.net)

    def _estimated(self) -> None:
        """Note that layers compete for one budget, by values that training decides."""
        together = not isinstance(self.method, Masked) or isinstance(self.method.budget(self.net), int)
        if together and ESTIMATED not in self.notes:
            self.notes.append(ESTIMATED)

    def _events(self) -> list[int]:
        """Return the steps, by the clock before the step, at which the method looks at the network."""
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
        weights = sum(p.numel() for p in self.net.params.values())
        most = max(LEAST_EVENTS, WORK // weights)
        if len(events) <= most:
            return events
        spread = (len(events) - 1) / (most - 1)
        return [events[round(index * spread)] for index in range(most)]

    @torch.no_grad()
    def _act(self, step: int) -> None:
        clock = Clock(step, self.total)
        self.method.before_step(self.net, clock, self.optimizer)
        self.method.after_step(self.net, clock.after, self.optimizer)
        self._stated = None

    def _passes(self, step: int) -> Passes:
        """Ask what the step costs; an answer that depends on the network is asked for once per change."""
        clock = Clock(step, self.total)
        try:
            return self.method.passes(self._idle, clock)
        except Touched:
            self._stated = self._stated or self.method.passes(self.net, clock)
            return self._stated

    def _charge(self, spans: list[_Span], known: list[tuple[int, Mapping[str, float]]]) -> None:
        """Charge equal steps together: the ledger counts whole MACs, so the sum is that of single steps.

        Between two changes of the masks that were carried out, densities are linear in time.
        """
        at = 0
        for span in spans:
            while at + 1 < len(known) and known[at + 1][0] <= span.first:
                at += 1
            first, densities = known[at]
            if first < span.first and at + 1 < len(known) and self.notes and SAMPLED in self.notes:
                last, later = known[at + 1]
                share = (span.first - first) / (last - first)
                densities = {n: (1 - share) * d + share * later[n] for n, d in densities.items()}
            self.ledger.charge(span.passes, densities, span.samples)


@dataclass
class _Span:
    """Steps of equal cost."""

    first: int
    passes: Passes
    samples: int = 0


class _NeedsData(Exception):
    """A method asks for data, of which a rehearsal has none."""


def _no_data(*_: Any, **__: Any) -> Any:
    raise _NeedsData


def _optimizer(run: Run, module: nn.Module, steps: int, net: SparseModel, method: Method) -> Optimizer:
    classifier = run.classifier(module, total_steps=steps)
    if net.learned:
        classifier.extra_groups.append({"params": list(net.learned.values()), **method.learned_options()})
    made: Any = classifier.configure_optimizers()
    return made["optimizer"] if isinstance(made, Mapping) else made


def _facts(sketch: Sketch, length: Length, steps: int) -> dict[str, Any]:
    ledger = sketch.ledger
    return {
        "steps": steps,
        "epochs": length.epochs(steps),
        "val_accuracy": 0.0,
        "train_loss": 0.0,
        "train_flops": ledger.train_flops,
        "dense_flops": ledger.dense_flops,
        "executed_flops": ledger.executed_flops,
        "start_flops": ledger.start_flops,
    }
