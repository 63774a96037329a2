"""How the cells of grids stand, read from their folders; nothing heavy is imported."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsebench.app.process.execute import failure_of, is_finished
from sparsebench.runs.activity import is_busy, running

STATES = ("running", "failed", "stopped", "interrupted", "waiting", "done")
"""What may become of a cell, in the order shown."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a cell stands.

    Attributes:
        name: its folder, below the one asked about.
        state: one of ``STATES``.
        stage: which fit is under way, where a run has several.
        progress: share of the steps of this fit; None where it is not known.
        seconds: that the run has taken so far, or took.
        left: seconds until the end of this fit, None where it is not known.
        accuracy: on test data at the end, on validation data before.
        words: why it failed, or where it runs.
    """

    name: str
    state: str
    stage: str = ""
    progress: float | None = None
    seconds: float | None = None
    left: float | None = None
    accuracy: float | None = None
    words: str = ""


def standings(root: Path) -> list[Standing]:
    """Return how each cell below a folder stands, by state and name."""
    runs, manifests = _survey(root)
    folders = dict.fromkeys([*runs, *_announced(manifests)])
    found = [_standing(folder, os.path.relpath(folder, root)) for folder in folders]
    return sorted(found, key=lambda standing: (STATES.index(standing.state), _natural(standing.name)))


def counts(found: Iterable[Standing]) -> dict[str, int]:
    """Return how many cells are in each state."""
    seen = Counter(standing.state for standing in found)
    return {state: seen[state] for state in STATES if seen[state]}


def time_left(found: Iterable[Standing]) -> float | None:
    """Return the seconds until the grid ends at its present pace, or None where nothing tells.

    A cell that waits is taken to last as long as the mean of the others; as many run at a time as now.
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
    """Tell whether a launch on this machine is about to come to cells below a folder."""
    return any(_lives(manifest) for manifest in _survey(root)[1].values())


def _survey(root: Path) -> tuple[list[Path], dict[Path, dict[str, Any]]]:
    """Return the folders of runs, and the manifests of launches by the folder in which they lie."""
    runs: list[Path] = []
    manifests: dict[Path, dict[str, Any]] = {}
    for place, folders, names in os.walk(root):
        if "config.yaml" in names:
            runs.append(Path(place))
            folders.clear()  # what lies below belongs to the run
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if re.fullmatch(r"grid-[0-9a-f]{8}\.json", name) and (content := _read(Path(place) / name)):
                manifests[Path(place) / name] = content
    return runs, manifests


def _announced(manifests: dict[Path, dict[str, Any]]) -> Iterable[Path]:
    """Yield the folders that launches said they would come to."""
    for path, content in manifests.items():
        for cell in content["cells"]:
            yield Path(os.path.normpath(path.parent / cell["folder"]))


def _lives(manifest: dict[str, Any]) -> bool:
    if manifest["host"] != socket.gethostname():
        return False
    try:
        os.kill(manifest["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _standing(folder: Path, name: str) -> Standing:
    if is_finished(folder):
        result = _read(folder / "result.json")
        missed = result.get("target_reached") is False
        return Standing(
            name=name,
            state="done",
            progress=1.0,
            seconds=result.get("seconds"),
            accuracy=result.get("test_accuracy"),
            words=f"ended at sparsity {result.get('sparsity', 0):.4f}, not as asked for" if missed else "",
        )
    sign = running(folder)
    if is_busy(folder):
        return _under_way(name, sign)
    if failure := failure_of(folder):
        return Standing(name=name, state="failed", words=failure)
    if (folder / "stopped.txt").exists():
        return Standing(name=name, state="stopped", words=(folder / "stopped.txt").read_text().strip())
    if not (folder / "config.yaml").exists():
        return Standing(name=name, state="waiting")
    at = {"progress": _share(sign), "accuracy": sign.get("val_accuracy"), "stage": sign.get("stage", "")}
    return Standing(name=name, state="interrupted", words="the same command continues", **at)


def _under_way(name: str, sign: dict[str, Any]) -> Standing:
    now = time.time()
    share, left = _share(sign), None
    done = sign.get("step", 0) - sign.get("first_step", 0)
    if share is not None and done > 0:
        pace = (sign["updated"] - sign["train_began"]) / done
        left = max(0.0, pace * (sign["steps"] - sign["step"]) - (now - sign["updated"]))
    return Standing(
        name=name,
        state="running",
        stage=sign.get("stage", ""),
        progress=share,
        seconds=now - sign["began"] if "began" in sign else None,
        left=left,
        accuracy=sign.get("val_accuracy"),
        words=f"process {sign['pid']} on {sign['host']}" if "pid" in sign else "",
    )


def _share(sign: dict[str, Any]) -> float | None:
    return min(1.0, sign["step"] / sign["steps"]) if sign.get("steps") else None


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _natural(name: str) -> list[Any]:
    return [float(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+(?:\.\d+)?)", name))]
