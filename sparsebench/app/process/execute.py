"""Bring one run to its end: it is finished, is continued, or begins."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from sparsebench.app.errors import STOPPED
from sparsebench.app.process.console import PREFIX, spoken_for
from sparsebench.runs.activity import Stopped
from sparsebench.runs.folder import RunFolder
from sparsebench.runs.identity import essence, finished_before, identity, run_folder
from sparsebench.runs.mappings import differences


class Withdrawn(RuntimeError):
    """A run of a grid was asked to stop before it began."""


class WorkerFailed(RuntimeError):
    """A run in a process of its own has failed, and has said why."""

    def __init__(self, folder: RunFolder, code: int) -> None:
        super().__init__(f"{folder}: the run failed with exit code {code}")
        self.folder, self.code = folder, code

    def __reduce__(self) -> tuple[Any, ...]:
        """Allow it to travel from a worker process."""
        return WorkerFailed, (self.folder, self.code)


def run_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Bring the run of a configuration to its end and return its result; wait where somebody else works on it.

    Args:
        config: the frozen configuration.

    Raises:
        ValueError: the folder holds a run with another configuration.
    """
    folder = RunFolder(run_folder(config))
    check_folder(folder, config)
    if not config["rerun"]:
        if folder.is_finished():
            return _finished(folder)
        if (old := finished_under_old_name(config)) is not None:
            return _finished(old)

    def begin() -> None:
        if config["rerun"]:
            folder.clear()
        folder.write_config(config)
        folder.forget_stop()

    try:
        return _bring_to_end(folder, config, begin, wait=True, again=config["rerun"])
    except Exception:
        if folder.failed_before_training() and not folder.is_busy():
            folder.remove()  # nothing has come of it but the error that the caller sees
        raise


def run_frozen(folder: RunFolder) -> dict[str, Any]:
    """Bring the run of a folder, whose configuration is written already, to its end and return its result.

    Raises:
        ValueError: the folder holds no configuration.
        Busy: somebody else works on it.
        Withdrawn: it was asked to stop before it began.
    """
    config = folder.config()
    if folder.is_finished():
        return _finished(folder)

    def begin() -> None:
        if reason := folder.asked_to_stop():
            folder.stop(f"Stopped: {reason}")
            raise Withdrawn(f"{folder}: {reason}")

    return _bring_to_end(folder, config, begin, wait=False)


def finished_under_old_name(config: Mapping[str, Any]) -> RunFolder | None:
    """Return the finished run that an earlier version made of this configuration, where nothing else tells them apart.

    Earlier versions did not fingerprint data and source files: with these, it is said that training is repeated.
    """
    old = finished_before(config)
    if old is not None and config["fingerprints"]:
        print(f"sparsebench: {old} was trained by an earlier version on data or code it does not name: training again")
        return None
    return None if old is None else RunFolder(old)


def check_folder(folder: RunFolder, config: Mapping[str, Any]) -> None:
    """Check that a folder is empty or holds this very run.

    Raises:
        ValueError: it holds another one; names the first differences.
    """
    if not folder.config_file.exists():
        return
    other = folder.config()
    if identity(other) != identity(config):
        found = differences(essence(other), essence(config))
        names = [f"{key}: {there} there, {here} here" for key, (there, here) in found.items()]
        raise ValueError(
            f"{folder} holds a run with another configuration ({', '.join(names[:4])}): "
            f"choose another run_dir, or repeat that run's own settings to continue it"
        )


def _bring_to_end(
    folder: RunFolder, config: Mapping[str, Any], begin: Callable[[], None], *, wait: bool, again: bool = False
) -> dict[str, Any]:
    if int(os.environ.get("SLURM_PROCID", 0)) > 0 and _by_srun():
        return _follow(folder)
    with folder.hold(wait=wait, join=config["choices"]["recipe"] != "single") as held:
        if folder.is_finished() and not again:  # by whoever we have waited for
            return _finished(folder)
        if held.first:
            begin()
            folder.reopen()
            folder.write_heartbeat()
        _train(folder, config, held.handle)
        folder.end_heartbeat()
    return folder.result()


def _finished(folder: RunFolder) -> dict[str, Any]:
    print(f"sparsebench: {folder} is finished (rerun=true trains again)")
    return folder.result()


def _train(folder: RunFolder, config: Mapping[str, Any], lock: int) -> None:
    """Train in this process, or in processes of its own; whatever goes wrong is written into the folder."""
    try:
        if not _several_processes(config["trainer"]) or _by_srun():
            from sparsebench.app.process.worker import work

            return work(folder)
        # ranks re-execute their command line: it must be a frozen configuration, never a sweep
        code = subprocess.run(
            [sys.executable, "-m", "sparsebench.app.process.worker", str(folder)], env=_environment(), pass_fds=(lock,)
        ).returncode  # the lock is theirs too: it must outlive a kill of this process alone
        if code == STOPPED:
            raise Stopped(folder.stopped().partition(": ")[2] or "somebody asked for it")
        if code:
            raise WorkerFailed(folder, code)
    except Exception as error:
        if not folder.failure() and not folder.stopped():
            folder.fail(f"{type(error).__name__}: {error}")
        folder.end_heartbeat()
        raise


def _environment() -> dict[str, str]:
    """Return the environment of a run of several processes: Lightning must start them, and not ask SLURM for them."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    return {**inherited, PREFIX: spoken_for()}


def _by_srun() -> bool:
    """Return True if SLURM has started all processes of this run already, one task each."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1


def _follow(folder: RunFolder) -> dict[str, Any]:
    """Work as a further rank that SLURM has started: the first one writes."""
    while not folder.heartbeat() and not folder.is_finished():
        time.sleep(0.2)
    from sparsebench.app.process.worker import work

    work(folder)
    while not folder.result_file.exists():
        time.sleep(0.2)
    return folder.result()


def _several_processes(trainer: Mapping[str, Any]) -> bool:
    return str(trainer["strategy"]).startswith("ddp") or trainer["devices"] not in (1, "1") or trainer["num_nodes"] > 1
