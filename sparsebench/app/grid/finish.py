"""Grids: every cell is known before the first starts, and each is brought to its end whoever is interrupted.

The launcher may be anything, on any machine. What has become of a cell stands in its folder, and is read there after
the launcher has returned: nothing else comes back from a process that was killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsebench.app.grid.cells import Cell
from sparsebench.app.grid.job import GridFailed, one_line, sentence
from sparsebench.app.process.execute import clear, failure_of, is_finished, result_of
from sparsebench.runs.activity import STOP, Busy, hold, holder, is_busy
from sparsebench.runs.atomic import write_atomically

_TRIES = 2  # a cell that leaves no result gets one more
_POLL = 0.5
_SILENT = "it left no result: its process died, or files of the configuration have changed meanwhile"

Launch = Callable[[Sequence[Sequence[str]]], Sequence[Any]]
"""Overrides of each job -> what Hydra's launcher returns for each."""


def finish_grid(cells: Sequence[Cell], launch: Launch, *, place: Path) -> None:
    """Bring all cells of a grid to their end.

    Args:
        cells: as ``compose_cells`` returns them.
        launch: runs jobs and returns when they have ended, one way or another.
        place: folder that tells ``sparsebench status`` what is still to come.

    Raises:
        GridFailed: some cells failed; all others are finished.
    """
    able = [cell for cell in cells if not cell.error]
    write_manifest(place, able)
    again = [cell for cell in able if cell.config["rerun"] and _clear(cell)]
    first = list({cell.folder: cell for cell in able}.values())
    open_cells = [cell for cell in first if cell in again or not is_finished(cell.folder)]
    for cell in open_cells:
        (cell.folder / STOP).unlink(missing_ok=True)
    for cell in first:
        if cell not in open_cells:
            _say_finished(cell)
    done = len(first) - len(open_cells)
    print(f"sparsebench: {len(first)} runs: {done} finished, {len(open_cells)} to do", flush=True)
    lost = bring_to_end(open_cells, launch)
    for cell in able:
        if cell not in first and is_finished(cell.folder):
            _say_finished(cell)  # another cell of the grid was the same run
    _report([*_refused(cells), *_failed(first, lost)])


def bring_to_end(cells: Sequence[Cell], launch: Launch) -> dict[Path, str]:
    """Launch cells until each is finished or has failed; return those that left no result, and why.

    Cells that another launch is at work on are left to it, and taken over should it die.
    """
    for cell in cells:
        if not is_busy(cell.folder):
            for name in ("failed.txt", "stopped.txt"):
                (cell.folder / name).unlink(missing_ok=True)
    tries: Counter[Path] = Counter()
    lost: dict[Path, str] = {}
    while pending := [cell for cell in cells if not (_is_settled(cell.folder) or cell.folder in lost)]:
        free = [cell for cell in pending if not is_busy(cell.folder)]
        if not free:
            _await(pending)
            continue
        said = _launch(free, launch)
        for cell in free:
            tries[cell.folder] += 1
            if tries[cell.folder] >= _TRIES and not _is_settled(cell.folder) and not is_busy(cell.folder):
                lost[cell.folder] = said.get(cell.folder, _SILENT)
    return lost


def _launch(cells: Sequence[Cell], launch: Launch) -> dict[Path, str]:
    """Launch cells and return what the launcher says of those that came to grief."""
    try:
        returned = launch([(*cell.overrides, "rerun=false") for cell in cells])  # what had to be cleared is cleared
    except Exception as error:  # a launcher that loses a process may lose its head
        print(f"sparsebench: the launcher stopped: {one_line(error)}", file=sys.stderr, flush=True)
        return dict.fromkeys((cell.folder for cell in cells), one_line(error))
    wrong = {cell.folder: getattr(job, "_return_value", None) for cell, job in zip(cells, returned, strict=False)}
    return {folder: one_line(error) for folder, error in wrong.items() if isinstance(error, Exception)}


def write_manifest(place: Path, cells: Sequence[Cell]) -> Path:
    """Write which cells a launch will come to; the same grid writes the same file."""
    folders = list(dict.fromkeys(cell.folder for cell in cells))
    name = hashlib.blake2b("\n".join(sorted(map(str, folders))).encode(), digest_size=4).hexdigest()
    known = {cell.folder: cell.overrides for cell in reversed(cells)}
    content = {
        "launched": time.time(),
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "cells": [{"folder": os.path.relpath(f, place), "overrides": known[f]} for f in folders],
    }
    path = place / f"grid-{name}.json"
    write_atomically(path, json.dumps(content, indent=1) + "\n")
    return path


def _clear(cell: Cell) -> bool:
    """Remove what a run has left, unless somebody is at work in it."""
    try:
        with hold(cell.folder, wait=False):
            clear(cell.folder)
    except Busy:
        return False
    return True


def _is_settled(folder: Path) -> bool:
    return is_finished(folder) or (
        not is_busy(folder) and (bool(failure_of(folder)) or (folder / "stopped.txt").exists())
    )


def _await(cells: Sequence[Cell]) -> None:
    """Wait until nobody is at work on one of the cells."""
    first = cells[0].folder
    print(f"sparsebench: waiting for {len(cells)} runs of another launch ({holder(first)})", flush=True)
    while all(is_busy(cell.folder) for cell in cells):
        time.sleep(_POLL)


def _say_finished(cell: Cell) -> None:
    print(f"sparsebench: {cell.folder} is finished (rerun=true trains again)")
    print(sentence(result_of(cell.folder)), flush=True)


def _refused(cells: Sequence[Cell]) -> list[tuple[str, str]]:
    return [(" ".join(cell.overrides), cell.error) for cell in cells if cell.error]


def _failed(cells: Sequence[Cell], lost: Mapping[Path, str]) -> list[tuple[str, str]]:
    found = [(cell.folder, lost.get(cell.folder) or failure_of(cell.folder)) for cell in cells]
    return [(str(folder), error) for folder, error in found if error and not is_finished(folder)]


def _report(failed: list[tuple[str, str]]) -> None:
    for name, error in failed:
        print(f"sparsebench: failed: {name}: {error}", file=sys.stderr, flush=True)
    if failed:
        raise GridFailed([error for _, error in failed])
