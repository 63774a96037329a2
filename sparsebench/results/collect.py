"""Read the runs below a folder: finished ones, unfinished ones, and files that cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsebench.results.schema import with_current_names
from sparsebench.runs.folder import RunFolder, runs_below

_TEXTS = ("method", "model", "dataset", "recipe")
_NUMBERS = ("seed", "epochs", "test_accuracy")

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Finished:
    """A finished run with its configuration and result.

    Attributes:
        folder: folder of the run.
        result: contents of ``result.json``, under current names.
        config: resolved configuration; empty if the file is missing.
        variant: identifier shared by runs that differ only in the seed; empty if the configuration is missing.
    """

    folder: Path
    result: Mapping[str, Any]
    config: Config
    variant: str


@dataclass
class Collected:
    """All runs below a folder, and remarks on the unreadable ones.

    Attributes:
        runs: finished runs, in order of their folders.
        unfinished: folders of runs that have begun but not ended, each with the known reason.
        waiting: number of runs that have not begun yet.
        skipped: files that are damaged or not ours, each with the problem.
    """

    runs: list[Finished] = field(default_factory=list)
    unfinished: list[tuple[Path, str]] = field(default_factory=list)
    waiting: int = 0
    skipped: list[tuple[Path, str]] = field(default_factory=list)


def collect(root: Path, *, variant_of: Callable[[Config], str]) -> Collected:
    """Read all runs below ``root``.

    Args:
        root: a folder with runs at any depth, or the folder of one run.
        variant_of: configuration -> identifier shared by runs that differ only in the seed.
    """
    found = Collected()
    for run in runs_below(root):
        state = run.state()
        if state == "done":
            _read(run, found, variant_of)
        elif not run.result_file.exists() and not _is_ours(run):
            continue
        elif state == "waiting":
            found.waiting += 1
        else:
            reason = run.failure() or run.stopped()
            found.unfinished.append((run.path, f"{state}: {reason}" if reason else state))
    return found


def _read(run: RunFolder, found: Collected, variant_of: Callable[[Config], str]) -> None:
    folder, path = run.path, run.result_file
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
    if run.config_file.exists():
        try:
            config = run.config()
            variant = variant_of(config)
        except Exception as error:  # the result counts even if the file is damaged
            found.skipped.append((run.config_file, f"damaged ({_line(error)}); the result counts without it"))
            config, variant = {}, ""
    found.runs.append(Finished(folder, with_current_names(result), config, variant))


def _wrong(result: Any) -> str:
    """Return the missing parts of one of our results as text, or nothing."""
    if not isinstance(result, dict):
        return "not a result of sparsebench (no mapping)"
    for key in (*_TEXTS, *_NUMBERS):
        kind = str if key in _TEXTS else (int, float)
        if not isinstance(result.get(key), kind):
            return f"not a result of sparsebench ({key} is {'missing' if key not in result else 'of another type'})"
    return ""


def _is_ours(run: RunFolder) -> bool:
    """Return True if the folder holds a configuration of ours: other programs write files of this name too."""
    try:
        return {"method", "model", "dataset", "seed", "choices"} <= set(run.config())
    except ValueError:
        return False


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
