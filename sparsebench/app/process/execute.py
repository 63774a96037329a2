"""Bring a run to its end: return its result, continue it, or start it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sparsebench.app.errors import STOPPED, USER, record_failure
from sparsebench.app.process.console import PREFIX, spoken_for
from sparsebench.app.process.ranks import environment_without_ranks, is_several, slurm_rank, started_by_slurm
from sparsebench.results.schema import with_current_names
from sparsebench.runs.activity import Stopped
from sparsebench.runs.folder import RunFolder
from sparsebench.runs.identity import essence, finished_before, identity, run_folder
from sparsebench.runs.leftovers import remove_leftovers, tidy_finished
from sparsebench.runs.mappings import differences

_GRACE = 10.0  # seconds for processes of a run to end by themselves
_PATIENCE = 300  # seconds to wait for another rank
_POLL = 0.2


class Withdrawn(RuntimeError):
    """Raised when a run of a grid was asked to stop before it began."""


class WorkerFailed(RuntimeError):
    """Raised when a run in a separate process has failed; its message is the reason that the folder gives."""

    def __init__(self, folder: RunFolder, code: int) -> None:
        why = folder.failure() or f"{folder} ended with exit code {code}"
        super().__init__(why if code == USER else f"{why}; its traceback is in {folder.failure_file}")
        self.folder, self.code = folder, code

    def __reduce__(self) -> tuple[Any, ...]:
        """Allow the exception to be pickled by a worker process."""
        return WorkerFailed, (self.folder, self.code)


def run_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Bring the run of a configuration to its end and return its result, waiting while another process works on it.

    Args:
        config: the frozen configuration.

    Raises:
        ValueError: the folder holds a run with another configuration.
    """
    folder = RunFolder(run_folder(config))
    check_folder(folder, config)
    if not config["rerun"]:
        if folder.is_finished():
            return _finished(folder, config)
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
            folder.remove()  # it left nothing but the error that the caller sees
        raise


def run_frozen(folder: RunFolder) -> dict[str, Any]:
    """Bring the run of a folder with a written configuration to its end and return its result.

    Raises:
        ValueError: the folder holds no configuration.
        Busy: another process works on it.
        Withdrawn: the run was asked to stop before it began.
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
    """Return the finished run of this configuration by an earlier version, if it is unique.

    Earlier versions did not fingerprint data and source files. If the configuration has such fingerprints, a message
    says that training is repeated.
    """
    old = finished_before(config)
    if old is not None and config["fingerprints"]:
        print(
            f"sparsebench: {old} was trained by an earlier version that did not record its data or code: training again"
        )
        return None
    return None if old is None else RunFolder(old)


def check_folder(folder: RunFolder, config: Mapping[str, Any]) -> None:
    """Check that a folder is empty or holds this run.

    Raises:
        ValueError: it holds another run; the message names the first differences.
    """
    if not folder.config_file.exists():
        return
    try:
        other = folder.config()
        found = identity(other)
    except (ValueError, KeyError, TypeError, AttributeError):
        if config["run_dir"] is not None:  # nothing else identifies the contents of that folder
            raise ValueError(f"{folder.config_file} is damaged: choose another run_dir, or delete the folder") from None
        print(f"sparsebench: {folder.config_file} is damaged, as after a power cut: writing it again", flush=True)
        folder.config_file.unlink()
        return
    if found != identity(config):
        found = differences(essence(other), essence(config))
        names = [f"{key}: {there} there, {here} here" for key, (there, here) in found.items()]
        raise ValueError(
            f"{folder} holds a run with another configuration ({', '.join(names[:4])}): "
            f"choose another run_dir, or repeat that run's own settings to continue it"
        )


def _bring_to_end(
    folder: RunFolder, config: Mapping[str, Any], begin: Callable[[], None], *, wait: bool, again: bool = False
) -> dict[str, Any]:
    if started_by_slurm(config["trainer"]) and slurm_rank() > 0:
        return _follow(folder)
    with folder.hold(wait=wait, join=config["choices"]["recipe"] != "single") as held:
        if folder.is_finished() and not again:  # finished by the launch that we waited for
            return _finished(folder)
        if held.first:
            begin()
            folder.reopen()
            remove_leftovers(folder)
            folder.write_heartbeat()
        _train(folder, config, held.handle)
        folder.end_heartbeat()
    return result_of(folder)


def result_of(folder: RunFolder) -> dict[str, Any]:
    """Return the result of a finished run, under current names."""
    return with_current_names(folder.result())


def _finished(folder: RunFolder, asked: Mapping[str, Any] | None = None) -> dict[str, Any]:
    print(f"sparsebench: {folder} is finished (rerun=true trains again)")
    tidy_finished(folder)
    kind = (asked or {}).get("logger", {}).get("kind")
    if kind in LOGGED and not LOGGED[kind](folder).exists():
        print(f"sparsebench: it was trained without logger={kind}, which receives nothing now")
    return result_of(folder)


LOGGED: Mapping[str, Callable[[RunFolder], Path]] = {
    "wandb": lambda folder: folder.wandb,
    "tensorboard": lambda folder: folder.tensorboard,
}
"""Logger -> folder that it creates in a run."""


def _train(folder: RunFolder, config: Mapping[str, Any], lock: int) -> None:
    """Train in this process, or in separate processes; any failure is recorded in the folder."""
    try:
        if not is_several(config["trainer"]) or started_by_slurm(config["trainer"]):
            from sparsebench.app.process.worker import work

            return work(folder)
        code = _work_apart(folder, lock)
        if code == STOPPED:
            raise Stopped(folder.stopped().partition(": ")[2] or "stop requested")
        if code:
            raise WorkerFailed(folder, code)
    except Exception as error:
        with contextlib.suppress(OSError):  # such as a full disk: the first error is the one to report
            if not folder.failure() and not folder.stopped():
                record_failure(folder, error)
            folder.end_heartbeat()
        raise


def _work_apart(folder: RunFolder, lock: int) -> int:
    """Train in separate processes, which end with this one and share its lock; return the exit code.

    Ranks re-execute their command line, which must be a frozen configuration, never a sweep. They hold the lock too,
    because it must survive a kill of this process alone.
    """
    command = [sys.executable, "-m", "sparsebench.app.process.worker", str(folder)]
    environment = {**environment_without_ranks(), PREFIX: spoken_for()}
    process = subprocess.Popen(command, env=environment, pass_fds=(lock,))
    try:
        return process.wait()
    except BaseException:
        process.terminate()  # it ends its ranks
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
        process.kill()
        raise
    finally:
        process.wait()


def _follow(folder: RunFolder) -> dict[str, Any]:
    """Work as a further rank started by SLURM; only the first rank writes.

    Raises:
        ValueError: there is no sign of the first rank.
    """
    _await(lambda: bool(folder.heartbeat()) or folder.is_finished(), folder)
    from sparsebench.app.process.worker import work

    work(folder)
    _await(folder.result_file.exists, folder)
    return result_of(folder)


def _await(happened: Callable[[], bool], folder: RunFolder) -> None:
    end = time.monotonic() + _PATIENCE
    while not happened():
        if time.monotonic() > end:
            raise ValueError(
                f"{folder}: no sign of srun's first task for {_PATIENCE} s (this is task {slurm_rank()}, by "
                f"SLURM_PROCID): "
                f"see its output, or unset SLURM_STEP_NUM_TASKS if there is no such task"
            )
        time.sleep(_POLL)
