"""States of the cells of grids, read from their folders without importing anything heavy."""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsebench.runs.folder import STATES, RunFolder, runs_below
from sparsebench.runs.identity import WITHOUT_EFFECT
from sparsebench.runs.manifest import manifests_below
from sparsebench.runs.mappings import differences, dotted

_SETTINGS = 3  # largest number of settings that distinguish runs of one name


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The state of a cell and its progress.

    Attributes:
        name: folder of the cell, relative to the requested one.
        state: one of ``STATES``.
        stage: the current fit of a run with several fits.
        progress: share of the steps of this fit; None if unknown.
        seconds: duration of the run, so far or in total.
        left: seconds until the end of this fit; None if unknown.
        accuracy: on test data for finished runs, otherwise on validation data.
        words: why the run failed, or where it runs.
        settings: settings that distinguish the run from others of the same name; empty if the name is unique.
    """

    name: str
    state: str
    stage: str = ""
    progress: float | None = None
    seconds: float | None = None
    left: float | None = None
    accuracy: float | None = None
    words: str = ""
    settings: str = ""


def standings(root: Path) -> list[Standing]:
    """Return the state of each cell below a folder, ordered by state and name."""
    announced = (folder for manifest in manifests_below(root) for folder in manifest.folders)
    folders = dict.fromkeys([*(run.path for run in runs_below(root)), *announced])
    told = _told_apart(folders)
    found = [_standing(RunFolder(folder), os.path.relpath(folder, root), told.get(folder, "")) for folder in folders]
    return sorted(found, key=lambda standing: (STATES.index(standing.state), _natural(standing.name)))


def _told_apart(folders: Iterable[Path]) -> dict[Path, str]:
    """Return the settings in which folders differ whose names are equal except for the hash."""
    same: dict[Path, list[Path]] = {}
    for folder in folders:
        same.setdefault(folder.with_name(folder.name.rpartition("--")[0] or folder.name), []).append(folder)
    told: dict[Path, str] = {}
    for group in same.values():
        if len(group) > 1:
            told |= _settings([RunFolder(folder) for folder in group])
    return told


def _settings(runs: Sequence[RunFolder]) -> dict[Path, str]:
    """Return the settings that distinguish the configurations of runs, or their hashes if none do."""
    configs: dict[Path, dict[str, Any]] = {}
    for run in runs:
        with contextlib.suppress(ValueError):
            configs[run.path] = dotted({k: v for k, v in run.config().items() if k not in WITHOUT_EFFECT})
    first, *others = [*configs.values()] or [{}]
    keys = dict.fromkeys(key for other in others for key in differences(first, other))
    told: dict[Path, str] = {}
    for run in runs:
        config = configs.get(run.path, {})
        words = " ".join(f"{key}={config[key]}" for key in list(keys)[:_SETTINGS] if key in config)
        told[run.path] = words or run.path.name.rpartition("--")[2]
    return told


def counts(found: Iterable[Standing]) -> dict[str, int]:
    """Return the number of cells in each state."""
    seen = Counter(standing.state for standing in found)
    return {state: seen[state] for state in STATES if seen[state]}


def time_left(found: Iterable[Standing]) -> float | None:
    """Return the seconds until the grid ends at its current pace, or None if unknown.

    The estimate assumes that waiting cells last as long as the mean of the others, and that as many run at a time as
    now.
    """
    found = list(found)
    at_work = [s for s in found if s.state == "running"]
    known = [s.left for s in at_work if s.left is not None]
    whole = [s.seconds for s in found if s.state == "done" and s.seconds is not None]
    whole += [s.seconds + s.left for s in at_work if s.left is not None and s.seconds is not None]
    to_come = sum(s.state in ("waiting", "interrupted") for s in found)
    if not at_work or (to_come and not whole) or len(known) < len(at_work):
        return None
    each = sum(whole) / len(whole) if whole else 0.0
    return max(max(known), (sum(known) + to_come * each) / len(at_work))


def is_launched(root: Path) -> bool:
    """Return True if a launch on this machine still has to start cells below a folder."""
    return any(manifest.is_alive() for manifest in manifests_below(root))


def _standing(run: RunFolder, name: str, settings: str) -> Standing:
    state, sign = run.state(), run.heartbeat()
    about: dict[str, Any] = {"name": name, "settings": settings, "state": state}
    if state == "done":
        result = _result(run)
        missed = result.get("target_reached") is False
        words = f"ended at sparsity {result.get('sparsity', 0):.4f}, not the requested one" if missed else ""
        seconds, accuracy = result.get("seconds"), result.get("test_accuracy")
        return Standing(**about, progress=1.0, seconds=seconds, accuracy=accuracy, words=words)
    if state == "running":
        return Standing(**about, **_under_way(sign, run.heartbeat_age()))
    words = {"failed": run.failure(), "stopped": run.stopped(), "interrupted": "repeat the command to continue"}
    at = {"progress": _share(sign), "accuracy": sign.get("val_accuracy"), "stage": sign.get("stage", "")}
    return Standing(**about, words=words.get(state, ""), **(at if state == "interrupted" else {}))


def _result(run: RunFolder) -> dict[str, Any]:
    try:
        found = run.result()
    except ValueError:
        return {}
    return {key: value for key, value in found.items() if isinstance(value, int | float)}


def _under_way(sign: dict[str, Any], age: float) -> dict[str, Any]:
    """Return the progress and the remaining time of a run that a process works on.

    Args:
        sign: last heartbeat of the run, by the clock of the machine that wrote it.
        age: seconds since that heartbeat.
    """
    now = sign.get("updated", 0.0) + age
    share, left = _share(sign), None
    done = sign.get("step", 0) - sign.get("first_step", 0)
    if share is not None and done > 0 and {"updated", "train_began"} <= set(sign):
        pace = (sign["updated"] - sign["train_began"]) / done
        left = max(0.0, pace * (sign["steps"] - sign["step"]) - age)
    return {
        "stage": sign.get("stage", ""),
        "progress": share,
        "seconds": max(0.0, now - sign["began"]) if "began" in sign else None,
        "left": left,
        "accuracy": sign.get("val_accuracy"),
        "words": f"process {sign['pid']} on {sign.get('host', '?')}" if "pid" in sign else "",
    }


def _share(sign: dict[str, Any]) -> float | None:
    return min(1.0, sign.get("step", 0) / sign["steps"]) if sign.get("steps") else None


def clock(seconds: float) -> str:
    """Format a duration as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _natural(name: str) -> list[Any]:
    return [float(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+(?:\.\d+)?)", name))]
