"""Compose, freeze and check all cells of a grid before the first one starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparsebench.app.config.check import check_config
from sparsebench.app.grid.job import one_line
from sparsebench.app.process.execute import check_folder
from sparsebench.runs.folder import RunFolder
from sparsebench.runs.identity import identity, run_folder

WITHIN = ("given", "single")


@dataclass(frozen=True, eq=False)
class Cell:
    """One cell of a grid: overrides, configuration and folder.

    Attributes:
        overrides: overrides that distinguish the cell, as on Hydra's command line.
        config: the frozen configuration of the cell; empty if it cannot be composed.
        folder: folder of the cell's run.
        error: why the cell cannot begin; empty if it can.
    """

    overrides: tuple[str, ...]
    config: Mapping[str, Any]
    folder: RunFolder
    error: str = ""


def compose_cells(context: Any, master: Any, jobs: Iterable[Sequence[str]]) -> list[Cell]:
    """Compose, freeze and check every job of a grid.

    Args:
        context: Hydra's context, which contains the loader of configurations.
        master: the configuration of the grid.
        jobs: overrides of each.

    Raises:
        ValueError, HydraException, OmegaConfBaseException: no job can be composed, and all for the same reason.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    before = HydraConfig.instance().cfg
    cells: list[Cell] = []
    refused: list[Exception] = []
    try:
        for overrides in map(tuple, jobs):
            try:
                cells.append(_frozen(context.config_loader.load_sweep_config(master, list(overrides)), overrides))
            except (ValueError, OSError, HydraException, OmegaConfBaseException) as error:
                refused.append(error)
                cells.append(Cell(overrides, {}, RunFolder(Path(" ".join(overrides))), one_line(error)))
    finally:
        HydraConfig.instance().cfg = before
    if refused and len({cell.error for cell in cells}) == 1:
        raise refused[0]
    return _checked(_alone(cells))


def _alone(cells: list[Cell]) -> list[Cell]:
    """Drop the method that only works within recipes from a grid of methods such as ``method=glob(*)``."""
    able = [cell for cell in cells if not cell.config or _choices(cell) != WITHIN]
    if not able or len(able) == len(cells):
        return cells
    print(
        f"sparsebench: method={WITHIN[0]} is left out, because its masks come from a recipe (imp, swamp, ...)",
        flush=True,
    )
    return able


def _choices(cell: Cell) -> tuple[str, str]:
    return cell.config["choices"]["method"], cell.config["choices"]["recipe"]


def varying(jobs: Sequence[Sequence[str]], *, first: int = 0) -> list[str]:
    """Name each job by the overrides that distinguish it, or by its number if there are none."""
    shared = set.intersection(*map(set, jobs))
    named = [[part for part in job if part not in shared and not part.startswith("hydra.")] for job in jobs]
    parts = [" ".join(part.removeprefix("+") for part in own) for own in named]
    return [name or f"run {first + number}" for number, name in enumerate(parts)]


def names_of(cells: Sequence[Cell]) -> list[str]:
    """Name cells by the overrides that distinguish them; a single cell by its folder."""
    if len(cells) == 1:
        name = cells[0].folder.path.name
        return [name.rpartition("--")[0] or name]
    return varying([cell.overrides for cell in cells]) if cells else []


def _frozen(composed: Any, overrides: tuple[str, ...]) -> Cell:
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from sparsebench.app.config.compose import freeze

    HydraConfig.instance().set_config(composed)
    own = composed.copy()
    OmegaConf.set_struct(own, False)
    own.pop("hydra")
    if own.cell is not None:
        raise ValueError(
            f"cell={own.cell} is one run, but -m was given: leave -m out, or repeat the command of the grid"
        )
    config = freeze(own)
    folder, error = RunFolder(run_folder(config)), ""
    try:
        check_config(config)
    except ValueError as found:
        error = one_line(found)
    return Cell(overrides, config, folder, error)


def _checked(cells: list[Cell]) -> list[Cell]:
    """Raise an error for cells whose folder holds another run or belongs to another cell."""
    owner: dict[RunFolder, str] = {}
    first: dict[str, RunFolder] = {}  # two spellings of one run share a folder
    checked: list[Cell] = []
    for cell in cells:
        error = cell.error
        if not cell.config:
            checked.append(cell)
            continue
        if cell.config["run_dir"] is None:
            cell = replace(cell, folder=first.setdefault(identity(cell.config), cell.folder))
        if not error and cell.config["run_dir"] is not None:  # otherwise the hash is part of the name
            mine = identity(cell.config)
            if owner.setdefault(cell.folder, mine) != mine:
                error = f"ValueError: run_dir={cell.folder} belongs to another cell: leave it out in grids"
            else:
                error = _collision(cell)
        checked.append(replace(cell, error=error))
    return checked


def _collision(cell: Cell) -> str:
    try:
        check_folder(cell.folder, cell.config)
    except ValueError as error:
        return one_line(error)
    return ""
