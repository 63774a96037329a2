"""Run: everything that a fit needs, and ``fit`` itself, memoised under a name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from sparsebench.analysis.quality import Ensemble
from sparsebench.data import ImageData
from sparsebench.engine import Classifier, Sparsity
from sparsebench.engine.callbacks.averaging import Averaging
from sparsebench.engine.callbacks.collapse import CollapseGuard
from sparsebench.engine.callbacks.monitors import GradientFlow, SparsityMonitor
from sparsebench.engine.loggers import close_loggers
from sparsebench.execution.backends import Execution
from sparsebench.fits.fit import Fit, train
from sparsebench.fits.stages import is_busy, lock
from sparsebench.fits.state import State
from sparsebench.methods import Method
from sparsebench.sparse import Prunable


@dataclass(kw_only=True)
class Run:
    """What a recipe runs with: the pieces of a fit, a budget, a folder and a seed.

    Args:
        folder: where states and checkpoints lie.
        network: builds the network; called under ``seed``.
        data: the data module.
        classifier: (network, total_steps=...) -> LightningModule.
        method: what differs from dense training.
        trainer: keyword arguments -> Trainer.
        prunable: which parameters may be sparse.
        execution: how networks of this method are computed (``engine.Sparsity``).
        loggers: folder -> loggers of a fit.
        progress: callbacks that show progress, made anew for each fit.
        seed: initial weights, data order and masks.
        compile: compile the network in place.
        per_layer: log density and gradient flow of each layer.
        on_collapse: what happens when a layer loses every weight: ``warn``, ``error`` or ``floor``.
        save_seconds: least time between two checkpoints.
        save_steps: checkpoint after this many steps too.
        prefix: stands before the names of all stages, where a recipe is part of another.
        shared: other processes work on the same run, and waiting for them is nothing to speak of.

    Attributes:
        fits: facts about every fit so far, in order.
        cycles: states that a recipe has measured, in order.
        upto: how many fits had been made at each of them.
        fresh: fits that were not there when this process came to them.
    """

    folder: Path
    network: Callable[[], nn.Module]
    data: ImageData
    classifier: Callable[..., Classifier]
    method: Method
    trainer: Callable[..., L.Trainer]
    prunable: Prunable = field(default_factory=Prunable)
    execution: Execution | None = None
    loggers: Callable[[Path], Sequence[Any]] = lambda folder: ()
    progress: Callable[[], Sequence[L.Callback]] = lambda: ()
    seed: int = 0
    compile: bool = False
    per_layer: bool = True
    on_collapse: str = "warn"
    save_seconds: float = 60.0
    save_steps: int | None = None
    prefix: str = ""
    shared: bool = False
    fits: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    cycles: list[State] = field(default_factory=list)
    upto: list[int] = field(default_factory=list)
    fresh: set[str] = field(default_factory=set)
    _open: list[Any] | None = None

    def fit(
        self,
        name: str,
        start: State | None = None,
        *,
        seed: int | None = None,
        method: Method | None = None,
        span: tuple[int, int] | None = None,
        rate: float | None = None,
        average: Averaging | None = None,
        **budget: Any,
    ) -> State:
        """Train from a state to a state, or return the one that is already there.

        The last checkpoint of an interrupted fit is continued exactly. The optimizer starts anew.

        Args:
            name: identifies the fit within the folder.
            start: weights and masks to begin with; the freshly built network by default.
            seed: data order of this fit; the run's by default.
            method: the run's by default.
            span: first and last step, out of the whole budget, over which the schedule is laid; all by default.
            rate: constant learning rate in the place of the schedule.
            average: return the mean of weights sampled on the way, not the last ones.
            budget: keywords for the trainer, such as ``max_epochs``.
        """
        about = {"seed": seed, "method": method, "span": span, "rate": rate, "average": average}
        wanted = Fit(name=name, start=start, budget=budget, **about)
        self._note_fresh(name)
        state = self.memo(name, lambda: train(self, wanted))
        if rank_zero_only.rank == 0:
            self.path(name, "ckpt").unlink(missing_ok=True)
        self.fits[f"{self.prefix}{name}"] = state.facts
        return state

    def fit_all(self, fits: Mapping[str, Mapping[str, Any]]) -> list[State]:
        """Make fits that do not depend on each other, in any order, and return their states in the order given.

        Other processes that run the same recipe over the same folder share the work: each takes what nobody has.

        Args:
            fits: name of a fit -> arguments of ``fit``.
        """
        for name in fits:
            self._note_fresh(name)
        for name, arguments in fits.items():
            if not is_busy(self.path(name, "lock")):
                self.fit(name, **arguments)
        return [self.fit(name, **arguments) for name, arguments in fits.items()]

    def memo(self, name: str, make: Callable[[], State]) -> State:
        """Return the state saved under a name; make and save it if there is none, in one process only."""
        done = self.path(name)
        if done.exists():
            return State.load(done)
        if rank_zero_only.rank > 0:
            state = make()
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            with lock(self.path(name, "lock"), quiet=self.shared):
                if done.exists():
                    return State.load(done)
                state = make()
                state.save(done)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()
        return state

    def path(self, name: str, kind: str = "pt") -> Path:
        """Return where something lies that belongs to a stage."""
        return self.folder / f"{self.prefix}{name}.{kind}"

    def initial(self) -> State:
        """Return the network as it is built, untrained and dense."""
        L.seed_everything(self.seed, verbose=False)
        return State({name: value.detach().clone() for name, value in self.network().state_dict().items()}, {})

    def _note_fresh(self, name: str) -> None:
        if not self.path(name).exists():
            self.fresh.add(f"{self.prefix}{name}")

    def watch(self, sparsity: Sparsity) -> list[L.Callback]:
        """Return the read-only callbacks of a fit."""
        return [
            SparsityMonitor(sparsity, per_layer=self.per_layer),
            GradientFlow(sparsity, log=self.per_layer),
            CollapseGuard(sparsity, action=self.on_collapse),
        ]

    def open_loggers(self) -> list[Any]:
        """Return the loggers of this run, opened once: several fits write to the same."""
        if self._open is None:
            self._open = list(self.loggers(self.folder))
        return self._open

    def close_loggers(self, *, failed: bool = False, summary: Mapping[str, Any] | None = None) -> None:
        """Close the loggers, marked failed where the run failed; a recipe of several fits opens its own for the end."""
        if summary is not None:
            self.open_loggers()
        close_loggers(self._open or [], failed=failed, summary=summary)
        self._open = None

    def total_steps(self, **budget: Any) -> int:
        """Return the optimizer steps of a whole fit.

        Raises:
            ValueError: the trainer has no end.
        """
        return self.steps(self._trainer(**budget))

    def epoch_steps(self, **budget: Any) -> int:
        """Return the optimizer steps of an epoch."""
        return self._epoch(self._trainer(**budget))

    def steps(self, trainer: L.Trainer) -> int:
        """Return the optimizer steps of a fit with this trainer.

        Raises:
            ValueError: the trainer has no end.
        """
        each = self._epoch(trainer)
        epochs = trainer.max_epochs if trainer.max_epochs is not None else -1
        if epochs < 0 and trainer.max_steps < 0:
            raise ValueError("training has no end, schedules need one: set trainer.max_epochs or trainer.max_steps")
        ends = [each * epochs] if epochs >= 0 else []
        ends += [trainer.max_steps] if trainer.max_steps >= 0 else []
        if min(ends) < 1:
            raise ValueError(f"{min(ends)} optimizer steps are no training: raise trainer.max_epochs or max_steps")
        return min(ends)

    def _epoch(self, trainer: L.Trainer) -> int:
        self.data.prepare_data()
        self.data.setup("fit")
        batches = len(self.data.train_dataloader())
        limit = trainer.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        return math.ceil(batches / trainer.accumulate_grad_batches)

    def _trainer(self, **budget: Any) -> L.Trainer:
        quiet = {"callbacks": [], "logger": [], "enable_progress_bar": False}
        return self.trainer(**quiet, default_root_dir=self.folder, **budget)

    @property
    def limits(self) -> tuple[int | float, int | float]:
        """How many batches of training and of validation are used: numbers, or shares as floats."""
        trainer = self._trainer()
        return trainer.limit_train_batches, trainer.limit_val_batches  # type: ignore[return-value]

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self._trainer().strategy.root_device

    def load(self, *weights: Mapping[str, torch.Tensor]) -> Classifier:
        """Return a classifier with these weights, or with an ensemble of several, in evaluation mode."""
        nets = [self.network() for _ in weights]
        for net, values in zip(nets, weights, strict=True):
            net.load_state_dict(dict(values))
        return self.classifier(nets[0] if len(nets) == 1 else Ensemble(nets), total_steps=1).eval()

    def evaluate(self, state: State, *, split: str = "test") -> dict[str, float]:
        """Measure a state on ``test`` or ``validation`` data."""
        module, trainer = self.load(state.weights, *state.members), self._trainer()
        measure = trainer.test if split == "test" else trainer.validate
        (metrics,) = measure(module, datamodule=self.data, verbose=False)
        return dict(metrics)
