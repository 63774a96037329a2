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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsebench.app.cell import check_folder, clear, failure_of, is_finished, result_of, write_atomically
from sparsebench.app.check import check_config
from sparsebench.app.identity import identity, run_folder
from sparsebench.app.lock import STOP, Busy, hold, holder, is_busy
from sparsebench.app.train import GridFailed, one_line, sentence

_TRIES = 2  # a cell whose process dies without a word gets one more
_POLL = 0.5

Launch = Callable[[Sequence[Sequence[str]]], Sequence[Any]]
"""Overrides of each job -> what Hydra's launcher returns for each."""


@dataclass(frozen=True)
class Cell:
    """One cell of a grid.

    Attributes:
        overrides: what distinguishes it, as Hydra's command line has it.
        config: its frozen configuration.
        error: why it cannot even begin; empty where it can.
    """

    overrides: tuple[str, ...]
    config: Mapping[str, Any]
    error: str = ""

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return run_folder(self.config)


def compose_cells(context: Any, master: Any, jobs: Iterable[Sequence[str]]) -> list[Cell]:
    """Compose, freeze and check every job of a grid.

    Args:
        context: Hydra's context, which has the loader of configurations.
        master: the configuration of the grid.
        jobs: overrides of each.
    """
    from hydra.core.hydra_config import HydraConfig

    before = HydraConfig.instance().cfg
    cells: list[Cell] = []
    try:
        for overrides in jobs:
            composed = context.config_loader.load_sweep_config(master, list(overrides))
            cells.append(_frozen(composed, tuple(overrides)))
    finally:
        HydraConfig.instance().cfg = before
    return _checked(cells)


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
    print(
        f"sparsebench: {len(first)} runs: {len(first) - len(open_cells)} finished, {len(open_cells)} to do", flush=True
    )
    lost = bring_to_end(open_cells, launch)
    for cell in able:
        if cell not in first and is_finished(cell.folder):
            _say_finished(cell)  # another cell of the grid was the same run
    _report([*_refused(cells), *_failed(first, lost)])


def bring_to_end(cells: Sequence[Cell], launch: Launch) -> dict[Path, str]:
    """Launch cells until each is finished or has failed; return those whose process died without a word, and why.

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
                lost[cell.folder] = said.get(cell.folder, "its process died without a word")
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


def varying(jobs: Sequence[Sequence[str]], *, first: int = 0) -> list[str]:
    """Name each job by the overrides in which it differs from others, for people; a lonely one by its number."""
    shared = set.intersection(*map(set, jobs))
    named = [[part for part in job if part not in shared and not part.startswith("hydra.")] for job in jobs]
    parts = [" ".join(part.removeprefix("+") for part in own) for own in named]
    return [name or f"run {first + number}" for number, name in enumerate(parts)]


def _frozen(composed: Any, overrides: tuple[str, ...]) -> Cell:
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from sparsebench.app.compose import freeze

    HydraConfig.instance().set_config(composed)
    own = composed.copy()
    OmegaConf.set_struct(own, False)
    own.pop("hydra")
    config = freeze(own)
    try:
        check_config(config)
    except ValueError as error:
        return Cell(overrides, config, one_line(error))
    return Cell(overrides, config)


def _checked(cells: list[Cell]) -> list[Cell]:
    """Refuse cells whose folder holds another run, or is that of another cell of the grid."""
    owner: dict[Path, str] = {}
    checked: list[Cell] = []
    for cell in cells:
        error = cell.error
        if not error and cell.config["run_dir"] is not None:  # else the hash is part of the name
            mine = identity(cell.config)
            if owner.setdefault(cell.folder, mine) != mine:
                error = f"ValueError: run_dir={cell.folder} is that of another cell: leave it out in grids"
            else:
                error = _collision(cell)
        checked.append(Cell(cell.overrides, cell.config, error))
    return checked


def _collision(cell: Cell) -> str:
    try:
        check_folder(cell.folder, cell.config)
    except ValueError as error:
        return one_line(error)
    return ""


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
