"""One cell of a grid: a folder that is finished, is continued, or is begun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sparsebench.app.identity import essence, identity, run_folder

USER_ERRORS = (ValueError, FileNotFoundError, NotADirectoryError, FloatingPointError, ImportError)
"""Errors that say what is wrong in one line; all others keep their traceback."""


def run_cell(config: Mapping[str, Any]) -> dict[str, Any]:
    """Bring a run to its end and return its result.

    Raises:
        ValueError: the folder holds a run with another configuration.
    """
    folder = run_folder(config)
    _claim(folder, config)
    if (folder / "DONE").exists() and not config["rerun"]:
        print(f"sparsebench: {folder} is finished (rerun=true trains again)")
        return json.loads((folder / "result.json").read_text())
    if config["rerun"]:
        names = ("DONE", "result.json", "metrics.csv", "cycles.json", "failed.txt", "*.pt", "*.ckpt")
        for path in [found for name in names for found in folder.glob(name)]:
            path.unlink(missing_ok=True)
    write_atomically(folder / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False))
    (folder / "failed.txt").unlink(missing_ok=True)
    if _several_processes(config["trainer"]):
        # ranks re-execute their command line: it must be a frozen configuration, never a sweep
        code = subprocess.run([sys.executable, "-m", "sparsebench.app.worker", str(folder)]).returncode
        if code:
            raise WorkerFailed(folder, code)
    else:
        from sparsebench.app.worker import work

        work(folder)
    return json.loads((folder / "result.json").read_text())


class WorkerFailed(RuntimeError):
    """A run in a process of its own has failed, and has said why."""

    def __init__(self, folder: Path, code: int) -> None:
        super().__init__(f"{folder}: the run failed with exit code {code}")
        self.code = code


def write_atomically(path: Path, text: str) -> None:
    """Write beside the place, then move: a kill leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text)
    os.replace(partial, path)


def _claim(folder: Path, config: Mapping[str, Any]) -> None:
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
