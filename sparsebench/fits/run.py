"""The interface that recipes program against: ``fit``, ``fit_all`` and ``memo``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sparsebench.engine.callbacks.averaging import Averaging
from sparsebench.engine.loggers import close_loggers
from sparsebench.fits.fit import Fit, Site, train
from sparsebench.fits.journal import Journal
from sparsebench.fits.setup import Setup
from sparsebench.fits.stages import Stages
from sparsebench.fits.state import State
from sparsebench.methods import Method


@dataclass(frozen=True, kw_only=True)
class Run:
    """Fits that share a setup and a folder, each made once and saved under its name.

    Args:
        setup: the parts of every fit, and numbers derived from them.
        stages: files of the states, and locks for making them.
        journal: costs of fits and measurements of cycles.
    """

    setup: Setup
    stages: Stages
    journal: Journal = field(default_factory=Journal)
    _open: list[Any] = field(default_factory=list, repr=False)

    @classmethod
    def at(cls, folder: Path, setup: Setup, *, shared: bool = False) -> Run:
        """Return the run of a folder; ``shared`` if other processes work on it too."""
        return cls(setup=setup, stages=Stages(folder, shared=shared), journal=Journal(folder))

    def replace(self, *, prefix: str | None = None, **parts: Any) -> Run:
        """Return the run with other parts; fits and cycles are recorded in the same journal.

        Args:
            prefix: text before the names of all stages; unchanged by default.
            parts: replaced parts of the setup.
        """
        stages = self.stages if prefix is None else replace(self.stages, prefix=prefix)
        return replace(self, setup=self.setup.replace(**parts), stages=stages)

    @property
    def seed(self) -> int:
        """Seed of initial weights, data order and masks."""
        return self.setup.seed

    @property
    def method(self) -> Method:
        """The sparse training method, unless a fit sets another."""
        return self.setup.method

    def initial(self) -> State:
        """Return the initial network, untrained and dense."""
        return self.setup.initial()

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
        alone: bool = False,
        **budget: Any,
    ) -> State:
        """Train from a state to a state, or return the stored result.

        The last checkpoint of an interrupted fit is continued exactly. The optimizer starts without state.

        Args:
            name: identifies the fit within the folder.
            start: initial weights and masks; by default a newly built network.
            seed: seed of the data order of this fit; by default the run's.
            method: method of this fit; by default the run's.
            span: first and last step of the part of the schedule to train; by default the whole.
            rate: constant learning rate instead of the schedule.
            average: return the mean of weights sampled during training instead of the last ones.
            alone: whether the run has no other fit, so that metrics belong to the run and progress lines need no name.
            budget: keywords for the trainer, such as ``max_epochs``.
        """
        wanted = Fit(start=start, seed=seed, method=method, span=span, rate=rate, average=average, budget=budget)
        self._note_missing(name)
        state = self.memo(name, lambda: train(self.setup, wanted, self._site(name, alone=alone)))
        self.stages.drop_checkpoint(name)
        self.journal.note_fit(self.stages.full_name(name), state.facts)
        return state

    def fit_all(self, fits: Mapping[str, Mapping[str, Any]]) -> list[State]:
        """Run independent fits in any order, and return their states in the order given.

        Other processes that run the same recipe in the same folder share the work: each takes a fit that no other works
        on.

        Args:
            fits: name of a fit -> arguments of ``fit``.
        """
        for name in fits:
            self._note_missing(name)
        for name, arguments in fits.items():
            if not self.stages.is_busy(name):
                self.fit(name, **arguments)
        return [self.fit(name, **arguments) for name, arguments in fits.items()]

    def memo(self, name: str, make: Callable[[], State]) -> State:
        """Return the state stored under a name; make and store it if missing, in one process only."""
        return self.stages.memo(name, make)

    def open_loggers(self) -> list[Any]:
        """Return the loggers of the run itself, opened once."""
        if not self._open:
            folder = self.stages.folder
            self._open.extend(self.setup.loggers(folder, run=folder.name, stage=None))
        return self._open

    def close_loggers(self, *, failed: bool = False, summary: Mapping[str, Any] | None = None) -> None:
        """Close the run's loggers; a summary opens them first, so that runs of several fits log their result too.

        Args:
            failed: whether the run failed.
            summary: numbers of the result.
        """
        if summary is not None:
            self.open_loggers()
        close_loggers(self._open, failed=failed, summary=summary)
        self._open.clear()

    def _note_missing(self, name: str) -> None:
        if not self.stages.is_made(name):
            self.journal.note_missing(self.stages.full_name(name))

    def _site(self, name: str, *, alone: bool) -> Site:
        return Site(
            folder=self.stages.folder,
            checkpoint=self.stages.checkpoint(name),
            label="" if alone else self.stages.full_name(name),
            loggers=(lambda: contextlib.nullcontext(self.open_loggers())) if alone else (lambda: self._loggers(name)),
        )

    @contextlib.contextmanager
    def _loggers(self, name: str) -> Iterator[list[Any]]:
        """Open the loggers of one of several fits in a separate folder, and close them with its outcome."""
        folder = self.stages.logs(name)
        folder.mkdir(parents=True, exist_ok=True)
        stage = self.stages.full_name(name)
        loggers = list(self.setup.loggers(folder, run=self.stages.folder.name, stage=stage))
        try:
            yield loggers
        except BaseException:
            close_loggers(loggers, failed=True)
            raise
        close_loggers(loggers)
