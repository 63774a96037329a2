"""Search for hyper-parameters with Optuna: the study persists, and hopeless trials are stopped.

A trial is one run, or one per seed; it is launched like the cells of a grid, by any launcher, and its state is read
from its folder. Only this process accesses the study: it reads ``metrics.csv`` of the active runs, and requests a
hopeless one to stop through a file next to it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from sparsebench.app.grid.cells import Cell
from sparsebench.app.grid.finish import Launch, bring_to_end, remove_empty
from sparsebench.app.grid.job import GridFailed, one_line
from sparsebench.app.grid.objective import check_objective, objective
from sparsebench.app.grid.storage import open_storage, study_file
from sparsebench.runs.folder import RunFolder

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import Trial

SAMPLERS, PRUNERS = ("tpe", "random"), ("median", "hyperband", "none")
_LOOK = 0.25  # seconds between two checks of the active runs


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a search.

    Args:
        study: name of the study.
        storage: storage of the study, in Optuna's format; by default a file in the folder of the runs.
        trials: number of trials, over all launches.
        parallel: number of trials to launch at a time.
        seeds: seeds over which a trial is averaged; none uses the seed of the configuration.
        sampler: one of ``SAMPLERS``.
        sampler_seed: seed of the sampler.
        pruner: one of ``PRUNERS``.
        startup: number of first trials that are never pruned.
        warmup: number of first epochs in which no trial is pruned.
    """

    study: str
    storage: str | None = None
    trials: int = 20
    parallel: int = 1
    seeds: Sequence[int] | None = None
    sampler: str = "tpe"
    sampler_seed: int = 0
    pruner: str = "median"
    startup: int = 5
    warmup: int = 0

    def __post_init__(self) -> None:
        """Check the options early, before launching trials."""
        for name, allowed in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"hydra.sweeper.{name}={getattr(self, name)} is unknown: choose {', '.join(allowed)}")
        for name in ("trials", "parallel"):
            if getattr(self, name) < 1:
                raise ValueError(f"hydra.sweeper.{name}={getattr(self, name)} is impossible: give at least 1")


@dataclass
class Attempt:
    """A trial in progress.

    Attributes:
        trial: Optuna's trial.
        cells: runs of the trial, one per seed.
        reported: number of epochs reported to the study.
        pruned: whether the trial is hopeless and has been asked to stop.
    """

    trial: Trial
    cells: list[Cell]
    reported: int = 0
    pruned: bool = False

    def report(self) -> None:
        """Report epochs that all runs of the trial have reached, and stop the runs if the trial is hopeless."""
        curves = [cell.folder.curve() for cell in self.cells]
        known = self.trial.study.trials[self.trial.number].intermediate_values  # metrics of an interrupted attempt
        for epoch in range(self.reported, min(map(len, curves))):
            if epoch not in known:
                self.trial.report(fmean(each[epoch] for each in curves), epoch)
            self.reported = epoch + 1
            if not self.pruned and self.trial.should_prune():
                self.pruned = True
                for cell in self.cells:
                    cell.folder.ask_to_stop(f"trial {self.trial.number} is hopeless after {epoch + 1} epochs")


@dataclass
class Search:
    """A search for hyper-parameters with one study.

    Args:
        options: settings of the search.
        space: override, such as ``optimizer.lr``, -> values to choose from.
        compose: overrides of jobs -> cells.
        launch: freezes and launches cells.
        place: folder of the runs.
    """

    options: Options
    space: Mapping[str, BaseDistribution]
    compose: Callable[[Sequence[Sequence[str]]], list[Cell]]
    launch: Launch
    place: Path
    failures: list[str] = field(default_factory=list)

    def run(self, fixed: Sequence[str]) -> None:
        """Run the requested number of trials, including earlier launches; interrupted trials continue.

        Args:
            fixed: overrides that all trials share.

        Raises:
            GridFailed: trials failed; the study continues without them.
        """
        from optuna.trial import TrialState

        self.place.mkdir(parents=True, exist_ok=True)
        with RunFolder(self.place).hold():  # one launch at a time
            study = self._open()
            waiting = [self._again(study, frozen) for frozen in study.get_trials(states=(TrialState.RUNNING,))]
            while waiting or len(study.get_trials(deepcopy=False)) < self.options.trials:
                room = min(self.options.parallel, self.options.trials - len(study.get_trials(deepcopy=False)))
                fresh = [study.ask(dict(self.space)) for _ in range(room - len(waiting))]
                batch, waiting = [*waiting, *fresh][: self.options.parallel], waiting[self.options.parallel :]
                self._try(study, [Attempt(trial, self._cells(trial, fixed)) for trial in batch])
            self._conclude(study)

    def _open(self) -> Study:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        wanted = self.options
        samplers = {
            "tpe": lambda: optuna.samplers.TPESampler(seed=wanted.sampler_seed, constant_liar=True),
            "random": lambda: optuna.samplers.RandomSampler(seed=wanted.sampler_seed),
        }
        pruners = {
            "median": lambda: optuna.pruners.MedianPruner(wanted.startup, wanted.warmup),
            "hyperband": optuna.pruners.HyperbandPruner,
            "none": optuna.pruners.NopPruner,
        }
        return optuna.create_study(
            study_name=wanted.study,
            storage=wanted.storage or open_storage(study_file(self.place, wanted.study)),
            sampler=samplers[wanted.sampler](),
            pruner=pruners[wanted.pruner](),
            direction="maximize",
            load_if_exists=True,
        )

    def _again(self, study: Study, frozen: Any) -> Trial:
        """Return a trial that an earlier launch left unfinished."""
        import optuna

        if set(frozen.params) != set(self.space):
            raise ValueError(
                f"study {study.study_name} searches over {', '.join(sorted(frozen.params))}: repeat its command, "
                "or give another hydra.sweeper.study"
            )
        return optuna.trial.Trial(study, frozen._trial_id)

    def _cells(self, trial: Trial, fixed: Sequence[str]) -> list[Cell]:
        chosen = [*fixed, *(f"{name}={value}" for name, value in trial.params.items())]
        seeds = [[f"seed={seed}"] for seed in self.options.seeds] if self.options.seeds else [[]]
        cells = self.compose([[*chosen, *seed] for seed in seeds])
        for cell in cells:
            if cell.config:
                check_objective(cell.config)
        return cells

    def _try(self, study: Study, attempts: list[Attempt]) -> None:
        cells = {cell.folder: cell for attempt in attempts for cell in attempt.cells if not cell.error}
        for folder in cells:
            folder.forget_stop()
            folder.reopen()
        with _watching(attempts):
            lost = bring_to_end([cell for cell in cells.values() if not cell.folder.is_finished()], self.launch)
        for attempt in attempts:
            attempt.report()
            self._tell(study, attempt, lost)
            remove_empty([cell for cell in attempt.cells if not cell.error])

    def _tell(self, study: Study, attempt: Attempt, lost: Mapping[RunFolder, str]) -> None:
        from optuna.trial import TrialState

        number = attempt.trial.number
        wrong = [cell.error or lost.get(cell.folder) or cell.folder.failure() for cell in attempt.cells]
        said = ", ".join(f"{name}={value}" for name, value in attempt.trial.params.items())
        value: float | None = None
        if all(not cell.error and cell.folder.is_finished() for cell in attempt.cells):
            try:
                value = objective([cell.folder for cell in attempt.cells])
            except ValueError as error:
                wrong = [one_line(error)]
        if value is not None:
            study.tell(number, value)
            print(f"sparsebench: trial {number}: validation accuracy {100 * value:.2f} %  {said}", flush=True)
        elif attempt.pruned and not any(wrong):
            study.tell(number, state=TrialState.PRUNED)
            print(f"sparsebench: trial {number}: stopped after {attempt.reported} epochs  {said}", flush=True)
        else:
            study.tell(number, state=TrialState.FAIL)
            self.failures.append(next(filter(None, wrong), "it was stopped"))
            print(f"sparsebench: trial {number}: failed: {self.failures[-1]}  {said}", flush=True)

    def _conclude(self, study: Study) -> None:
        from optuna.trial import TrialState

        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if complete:
            best = study.best_trial
            settings = " ".join(f"{name}={value}" for name, value in best.params.items())
            print(f"sparsebench: {len(study.trials)} trials, {len(complete)} complete; best is {best.number}:")
            print(f"  {settings}  validation accuracy {100 * (best.value or 0):.2f} %", flush=True)
        if self.failures:
            raise GridFailed(self.failures)


@contextlib.contextmanager
def _watching(attempts: Sequence[Attempt]) -> Iterator[None]:
    """Report the progress of running trials from a thread while the launcher works."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_LOOK):
            for attempt in attempts:
                attempt.report()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
