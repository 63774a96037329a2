"""Finish grids: every cell is known before the first starts, and interrupted cells are continued.

Any launcher on any machine will do. The state of a cell is read from its folder after the launcher has returned,
because a process that was killed returns nothing else.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsebench.app.grid.cells import Cell, names_of
from sparsebench.app.grid.job import GridFailed, one_line, sentence
from sparsebench.app.process.execute import finished_under_old_name, result_of
from sparsebench.runs.activity import Busy
from sparsebench.runs.folder import RunFolder
from sparsebench.runs.leftovers import tidy_finished
from sparsebench.runs.manifest import write_manifest

_TRIES = 2  # a cell without a result gets one more attempt
_POLL = 0.5
_SILENT = "it left no result: its process died, or files of the configuration have changed since"

Launch = Callable[[Sequence[Cell]], Sequence[Any]]
"""Freezes cells, launches them, and returns what Hydra's launcher returns for each."""


def finish_grid(cells: Sequence[Cell], launch: Launch, *, place: Path) -> None:
    """Finish all cells of a grid.

    Args:
        cells: cells from ``compose_cells``.
        launch: freezes and launches cells, and returns when they have ended or failed.
        place: folder of the manifest, from which ``sparsebench status`` knows the waiting cells.

    Raises:
        GridFailed: some cells failed; all others are finished.
    """
    able = [cell for cell in cells if not cell.error]
    known: dict[RunFolder, Cell] = {}
    first = [cell for cell in able if known.setdefault(cell.folder, cell) is cell]
    write_manifest(place, {cell.folder.path: cell.overrides for cell in first})
    for cell in first:
        if cell.config["rerun"]:
            _clear(cell)
    finished = {cell.folder: done for cell in first if (done := _finished(cell)) is not None}
    open_cells = [cell for cell in first if cell.folder not in finished]
    for cell in open_cells:
        cell.folder.forget_stop()
    damaged = [(str(done), wrong) for done in finished.values() if (wrong := _say_finished(done))]
    print(f"sparsebench: {len(first)} runs: {len(finished)} finished, {len(open_cells)} to do", flush=True)
    lost = bring_to_end(open_cells, launch)
    for cell in able:
        if cell not in first and cell.folder.is_finished():
            _say_finished(cell.folder)  # another cell of the grid was the same run
    failed = _failed(cells, lost)
    remove_empty(open_cells)
    _report([*damaged, *failed])


def bring_to_end(cells: Sequence[Cell], launch: Launch) -> dict[RunFolder, str]:
    """Launch cells until each is finished or has failed; return the cells without result, and why.

    Cells that another launch works on are left to it, and taken over if it dies.
    """
    for cell in cells:
        if not cell.folder.is_busy():
            cell.folder.reopen()
    tries: Counter[RunFolder] = Counter()
    lost: dict[RunFolder, str] = {}
    while pending := [cell for cell in cells if not (_is_settled(cell.folder) or cell.folder in lost)]:
        free = [cell for cell in pending if not cell.folder.is_busy()]
        if not free:
            _await(pending)
            continue
        said = _launch(free, launch)
        for cell in free:
            tries[cell.folder] += 1
            if tries[cell.folder] >= _TRIES and not _is_settled(cell.folder) and not cell.folder.is_busy():
                lost[cell.folder] = said.get(cell.folder, _SILENT)
    return lost


def _launch(cells: Sequence[Cell], launch: Launch) -> dict[RunFolder, str]:
    """Launch cells and return the launcher's error for each that failed."""
    try:
        returned = launch(cells)
    except Exception as error:  # some launchers raise when a process dies
        print(f"sparsebench: the launcher stopped: {one_line(error)}", file=sys.stderr, flush=True)
        return dict.fromkeys((cell.folder for cell in cells), one_line(error))
    wrong = {cell.folder: getattr(job, "_return_value", None) for cell, job in zip(cells, returned, strict=False)}
    return {folder: one_line(error) for folder, error in wrong.items() if isinstance(error, Exception)}


def remove_empty(cells: Sequence[Cell]) -> None:
    """Remove the folders of cells that failed before training: they contain only the reason."""
    for cell in cells:
        if cell.folder.failed_before_training() and not cell.folder.is_busy():
            cell.folder.remove()


def _finished(cell: Cell) -> RunFolder | None:
    """Return the folder of the finished run of a cell, wherever it is, or None if it is not finished."""
    if cell.folder.is_finished():
        return cell.folder
    return None if cell.config["rerun"] else finished_under_old_name(cell.config)


def _clear(cell: Cell) -> None:
    """Remove the files of a run, unless a process works on it."""
    with contextlib.suppress(Busy), cell.folder.hold(wait=False):
        cell.folder.clear()


def _is_settled(folder: RunFolder) -> bool:
    return folder.state() in ("done", "failed", "stopped")


def _await(cells: Sequence[Cell]) -> None:
    """Wait until no process works on any of the cells."""
    first = cells[0].folder
    print(f"sparsebench: waiting for {len(cells)} runs of another launch ({first.holder()})", flush=True)
    while all(cell.folder.is_busy() for cell in cells):
        time.sleep(_POLL)


def _say_finished(folder: RunFolder) -> str:
    """Print how a finished run ended; return why its result cannot be read, or an empty text."""
    print(f"sparsebench: {folder} is finished (rerun=true trains again)", flush=True)
    tidy_finished(folder)
    try:
        print(sentence(result_of(folder)), flush=True)
    except ValueError as error:
        return one_line(error)
    except (KeyError, TypeError) as error:
        return f"ValueError: {folder.result_file} is not a result of sparsebench ({error}): rerun=true trains again"
    return ""


def _failed(cells: Sequence[Cell], lost: Mapping[RunFolder, str]) -> list[tuple[str, str]]:
    """Return the refused and failed cells, each once, with the reason."""
    found: dict[str, str] = {}
    for cell, name in zip(cells, names_of(cells), strict=True):
        if cell.error:
            found[name] = cell.error
        elif not cell.folder.is_finished() and (error := lost.get(cell.folder) or cell.folder.failure()):
            # a cell that failed before training has no folder: its overrides identify it
            found[name if cell.folder.failed_before_training() else str(cell.folder)] = error
    return [*found.items()]


def _report(failed: list[tuple[str, str]]) -> None:
    for name, error in failed:
        print(f"sparsebench: failed: {name}: {error}", file=sys.stderr, flush=True)
    if failed:
        raise GridFailed([error for _, error in failed])
