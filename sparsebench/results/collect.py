"""Read the runs below a folder: what is finished, what is not, and what cannot be read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsebench.results.published import load_yaml
from sparsebench.results.schema import with_current_names

_TEXTS = ("method", "model", "dataset", "recipe")
_NUMBERS = ("seed", "epochs", "test_accuracy")

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Finished:
    """A finished run.

    Attributes:
        folder: where it lies.
        result: what ``result.json`` says, under the names of today.
        config: its resolved configuration; empty where the file is missing.
        variant: what is equal for runs that differ in the seed alone; empty where the configuration is missing.
    """

    folder: Path
    result: Mapping[str, Any]
    config: Config
    variant: str


@dataclass
class Collected:
    """Everything that a folder holds.

    Attributes:
        runs: finished runs, in order of their folders.
        unfinished: folders of runs without ``DONE``, each with what is known about why.
        skipped: files that are damaged, or not ours, each with what is wrong.
    """

    runs: list[Finished] = field(default_factory=list)
    unfinished: list[tuple[Path, str]] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)


def collect(root: Path, *, variant_of: Callable[[Config], str]) -> Collected:
    """Read all runs below ``root``.

    Args:
        root: a folder; runs may lie at any depth, and ``root`` may be one.
        variant_of: configuration -> what is equal for runs that differ in the seed alone.
    """
    found = Collected()
    for place, folders, names in os.walk(root):
        folders.sort()
        folder = Path(place)
        if "result.json" in names and "DONE" in names:
            _read(folder, found, variant_of)
        elif "result.json" in names or ("config.yaml" in names and _is_run(folder / "config.yaml")):
            found.unfinished.append((folder, _reason(folder)))
    return found


def _read(folder: Path, found: Collected, variant_of: Callable[[Config], str]) -> None:
    path = folder / "result.json"
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        found.skipped.append((path, f"damaged ({_line(error)})"))
        return
    wrong = _wrong(result)
    if wrong:
        found.skipped.append((path, wrong))
        return
    config: Config = {}
    variant = ""
    if (folder / "config.yaml").exists():
        try:
            config = load_yaml((folder / "config.yaml").read_text(encoding="utf-8"))
            variant = variant_of(config)
        except Exception as error:  # whatever is wrong with the file, the result still counts
            found.skipped.append((folder / "config.yaml", f"damaged ({_line(error)}); the result counts without it"))
            config, variant = {}, ""
    found.runs.append(Finished(folder, with_current_names(result), config, variant))


def _wrong(result: Any) -> str:
    """Say what is missing in a result of ours, or nothing."""
    if not isinstance(result, dict):
        return "not a result of sparsebench (no mapping)"
    for key in (*_TEXTS, *_NUMBERS):
        kind = str if key in _TEXTS else (int, float)
        if not isinstance(result.get(key), kind):
            return f"not a result of sparsebench ({key} is {'missing' if key not in result else 'of another type'})"
    return ""


def _is_run(path: Path) -> bool:
    try:
        config = load_yaml(path.read_text(encoding="utf-8"))
    except Exception:
        return False
    return isinstance(config, dict) and {"method", "model", "dataset", "seed", "choices"} <= set(config)


def _reason(folder: Path) -> str:
    failed = folder / "failed.txt"
    if not failed.exists():
        return "running or interrupted"
    lines = failed.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"failed: {lines[0]}" if lines else "failed"


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
