"""Remarks on runs: differing machines and versions, unfinished runs, unreadable files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsebench.results.collect import Collected, Finished


def version_notes(runs: Sequence[Finished]) -> list[str]:
    """Return notes on packages or machines that differ between runs."""
    notes: list[str] = []
    names = dict.fromkeys(name for run in runs for name in run.result.get("versions") or {})
    for name in names:
        seen = Counter((run.result.get("versions") or {}).get(name, "unknown") for run in runs)
        if len(seen) > 1:
            notes.append(f"runs differ in {name}: {_counts(seen)}")
    places = Counter(_machine(run.result.get("hardware") or {}) for run in runs)
    if len(places) > 1:
        notes.append(f"images/s and seconds come from several machines: {_counts(places)}")
    return notes


def left_out(root: Path, found: Collected) -> list[str]:
    """Return one line for each group of unfinished runs and for each skipped file."""
    unfinished = [f"unfinished: {short(folder, root)} ({reason})" for folder, reason in found.unfinished]
    if found.waiting:
        unfinished.append(f"waiting: {found.waiting} run{'s have' if found.waiting > 1 else ' has'} not begun yet")
    return [*unfinished, *(f"skipped: {short(path, root)}: {reason}" for path, reason in found.skipped)]


def short(path: Path, root: Path) -> str:
    """Return a path relative to the folder of the report."""
    return path.relative_to(root).as_posix() if path != root else path.as_posix()


def _counts(seen: Counter[str]) -> str:
    return ", ".join(f"{name} ({count} run{'s' if count > 1 else ''})" for name, count in seen.most_common())


def _machine(hardware: Mapping[str, Any]) -> str:
    return str(hardware.get("gpu") or f"{hardware.get('cpu', 'unknown')}, {hardware.get('threads', '?')} threads")
