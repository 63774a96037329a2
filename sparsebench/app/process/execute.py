"""One cell of a grid: a folder that is finished, is continued, or is begun."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sparsebench.app.process.console import PREFIX, spoken_for
from sparsebench.results.schema import with_current_names
from sparsebench.runs.activity import RUNNING, STOP, asked_to_stop, give_sign, hold
from sparsebench.runs.atomic import write_atomically
from sparsebench.runs.identity import essence, finished_before, identity, run_folder


def run_cell(config: Mapping[str, Any], *, wait: bool = True) -> dict[str, Any]:
    """Bring a run to its end and return its result.

    Args:
        config: the frozen configuration.
        wait: wait where another launch is at work in the folder.

    Raises:
        ValueError: the folder holds a run with another configuration.
        Busy: another launch is at work in the folder, and ``wait`` is false.
        Withdrawn: it was asked to stop before it began.
    """
    folder = run_folder(config)
    check_folder(folder, config)
    if is_finished(folder) and not config["rerun"]:
        return _finished(folder)
    if not config["rerun"] and (old := finished_before(config)) is not None:
        if not config["fingerprints"]:
            return _finished(old)
        print(f"sparsebench: {old} was trained by an earlier version on data or code it does not name: training again")
    if int(os.environ.get("SLURM_PROCID", 0)) > 0 and _by_srun():
        return _follow(folder)
    with hold(folder, wait=wait, join=config["choices"]["recipe"] != "single") as held:
        if is_finished(folder) and not config["rerun"]:  # by whoever we have waited for
            return _finished(folder)
        if held.first:
            if config["rerun"]:
                clear(folder)
            write_atomically(folder / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False))
            if not wait and (reason := asked_to_stop(folder)):
                write_atomically(folder / "stopped.txt", f"Stopped: {reason}\n")
                raise Withdrawn(f"{folder}: {reason}")
            for name in ("failed.txt", "stopped.txt", STOP):
                (folder / name).unlink(missing_ok=True)
            give_sign(folder)
        _train(folder, config, held.handle)
        (folder / RUNNING).unlink(missing_ok=True)
    return result_of(folder)


def is_finished(folder: Path) -> bool:
    """Tell whether a run is at its end."""
    return (folder / "DONE").exists()


def result_of(folder: Path) -> dict[str, Any]:
    """Return the result of a finished run, under the names of today."""
    return with_current_names(json.loads((folder / "result.json").read_text()))


def failure_of(folder: Path) -> str:
    """Return why a run has failed, in one line, or nothing."""
    try:
        return (folder / "failed.txt").read_text(errors="replace").strip().splitlines()[0]
    except FileNotFoundError:
        return ""
    except IndexError:
        return "it does not say why"


def curve(folder: Path) -> list[float]:
    """Return the validation accuracy of each epoch so far."""
    try:
        with (folder / "metrics.csv").open(newline="") as file:
            return [float(row["val_accuracy"]) for row in csv.DictReader(file) if row.get("val_accuracy")]
    except OSError:
        return []


def clear(folder: Path) -> None:
    """Remove what a run has left, so that it begins anew."""
    names = ("DONE", "result.json", "metrics.csv", "cycles.json", "failed.txt", "stopped.txt", "*.pt", "*.ckpt")
    for path in [found for name in names for found in folder.glob(name)]:
        path.unlink(missing_ok=True)


def _finished(folder: Path) -> dict[str, Any]:
    print(f"sparsebench: {folder} is finished (rerun=true trains again)")
    return result_of(folder)


def _train(folder: Path, config: Mapping[str, Any], lock: int) -> None:
    """Train here, or in processes of its own; whatever goes wrong stands in the folder afterwards."""
    try:
        if not _several_processes(config["trainer"]) or _by_srun():
            from sparsebench.app.process.worker import work

            return work(folder)
        # ranks re-execute their command line: it must be a frozen configuration, never a sweep
        code = subprocess.run(
            [sys.executable, "-m", "sparsebench.app.process.worker", str(folder)], env=_environment(), pass_fds=(lock,)
        ).returncode  # the lock is theirs too: it must outlive a kill of this process alone
        if code:
            raise WorkerFailed(folder, code)
    except Exception as error:
        (folder / RUNNING).unlink(missing_ok=True)
        if not failure_of(folder) and not (folder / "stopped.txt").exists():
            write_atomically(folder / "failed.txt", f"{type(error).__name__}: {error}\n")
        raise


def _environment() -> dict[str, str]:
    """Return the environment of a run of several processes: Lightning must start them, and not ask SLURM for them."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    return {**inherited, PREFIX: spoken_for()}


def _by_srun() -> bool:
    """Tell whether SLURM has started all processes of this run already, one task each."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1


def _follow(folder: Path) -> dict[str, Any]:
    """Work as a further rank that SLURM has started: the first one writes."""
    while not (folder / RUNNING).exists() and not is_finished(folder):
        time.sleep(0.2)
    from sparsebench.app.process.worker import work

    work(folder)
    while not (folder / "result.json").exists():
        time.sleep(0.2)
    return result_of(folder)


class Withdrawn(RuntimeError):
    """A run of a grid was asked to stop before it began."""


class WorkerFailed(RuntimeError):
    """A run in a process of its own has failed, and has said why."""

    def __init__(self, folder: Path, code: int) -> None:
        super().__init__(f"{folder}: the run failed with exit code {code}")
        self.folder, self.code = folder, code

    def __reduce__(self) -> tuple[Any, ...]:
        """Allow it to travel from a worker process."""
        return WorkerFailed, (self.folder, self.code)


def check_folder(folder: Path, config: Mapping[str, Any]) -> None:
    """Check that a folder is empty or holds this very run.

    Raises:
        ValueError: it holds another one; names the first differences.
    """
    present = folder / "config.yaml"
    if not present.exists():
        return
    other = yaml.safe_load(present.read_text())
    if identity(other) != identity(config):
        names = _differences(essence(other), essence(config))
        raise ValueError(
            f"{folder} holds a run with another configuration ({', '.join(names[:4])}): "
            f"choose another run_dir, or repeat that run's own settings to continue it"
        )


def _differences(one: Mapping[str, Any], two: Mapping[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key in sorted({*one, *two}):
        a, b = one.get(key), two.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}: {a} there, {b} here")
    return found


def _several_processes(trainer: Mapping[str, Any]) -> bool:
    return str(trainer["strategy"]).startswith("ddp") or trainer["devices"] not in (1, "1") or trainer["num_nodes"] > 1
