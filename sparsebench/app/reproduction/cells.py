"""The cells that ``sparsebench reproduce`` was asked for, and their runs on disk."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsebench.results.published import PUBLISHED
from sparsebench.results.reproduction import Cell, load_cells
from sparsebench.runs.folder import RunFolder
from sparsebench.runs.messages import did_you_mean


def select(what: str, registry: Path = PUBLISHED) -> list[Cell]:
    """Return the cells of a paper, of a folder of presets, or with an id that matches wildcards.

    Raises:
        ValueError: nothing of that name can be run, or the registry is wrong.
    """
    cells = load_cells(registry)
    check_presets(cells)
    names = {name for cell in cells for name in _names(cell)}
    found = [cell for cell in cells if what in _names(cell) or fnmatch.fnmatchcase(cell.id, what)]
    if not found:
        papers = sorted({cell.published.paper for cell in cells})
        raise ValueError(
            f"nothing to reproduce under {what!r}{did_you_mean(what, names)}; papers are {', '.join(papers)}"
        )
    return found


def check_presets(cells: Sequence[Cell]) -> None:
    """Raise an error for a cell whose preset does not exist.

    Raises:
        ValueError: the first such cell, and the preset that was probably meant.
    """
    from sparsebench.app.config.tree import options

    known = options("experiment")
    for cell in cells:
        if cell.recipe.preset not in known:
            preset = cell.recipe.preset
            raise ValueError(
                f"entry {cell.id}: preset {preset!r} is unknown{did_you_mean(preset, known)}: it must be an option of "
                f"conf/experiment"
            )


def _names(cell: Cell) -> tuple[str, ...]:
    return cell.published.paper, cell.recipe.preset.partition("/")[0], cell.recipe.preset, cell.id


def cell_config(cell: Cell, output_root: Path) -> dict[str, Any]:
    """Return the frozen configuration of a cell, its seed aside."""
    from sparsebench.app.config.compose import compose_config

    return compose_config([*cell.arguments, f"output_root={output_root}"])


def folder_of(config: Mapping[str, Any], seed: int) -> RunFolder:
    """Return the folder of one run of a cell."""
    from sparsebench.runs.identity import run_folder

    return RunFolder(run_folder({**config, "seed": seed}))


def result_of_seed(config: Mapping[str, Any], seed: int) -> Mapping[str, Any] | None:
    """Return the result of one run of a cell, or None if it has not finished."""
    from sparsebench.app.process.execute import result_of

    folder = folder_of(config, seed)
    return result_of(folder) if folder.is_finished() else None


def results_of(config: Mapping[str, Any], seeds: int) -> dict[int, Mapping[str, Any]]:
    """Return the results of the finished runs of a cell, by seed."""
    found = {seed: result_of_seed(config, seed) for seed in range(seeds)}
    return {seed: result for seed, result in found.items() if result is not None}
