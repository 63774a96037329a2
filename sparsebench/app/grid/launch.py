"""Launch frozen cells with any Hydra launcher, announcing each cell of a serial grid."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from sparsebench.app.grid.cells import Cell, names_of
from sparsebench.app.grid.loader import frozen_context, override_for
from sparsebench.app.grid.status import clock
from sparsebench.runs.folder import RunFolder


class CellLauncher:
    """Freeze cells into their folders and launch them.

    Args:
        context: Hydra's context.
        task: runs a job.
        config: the configuration of the launch, including the launcher.
        batch: largest number of cells to launch at once.
        cells: all cells of the grid, to count them when they run one after another; none for a search, which counts its
            trials.
    """

    def __init__(
        self, context: Any, task: Any, config: Any, *, batch: int | None = None, cells: Sequence[Cell] = ()
    ) -> None:
        from hydra._internal.core_plugins.basic_launcher import BasicLauncher
        from hydra.core.plugins import Plugins

        self.launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=frozen_context(context), task_function=task, config=config
        )
        self.serial = isinstance(self.launcher, BasicLauncher)
        self.batch, self.started = batch, 0
        self._numbers: dict[RunFolder, int] = {}
        self._names = _by_folder(cells)
        self._began = time.monotonic()

    def __call__(self, cells: Sequence[Cell]) -> list[Any]:
        """Launch cells and return the launcher's result for each."""
        for cell in cells:
            self._freeze(cell)
            self._numbers.setdefault(cell.folder, len(self._numbers) + 1)
        names = self._names or _by_folder(cells)
        returned: list[Any] = []
        size = 1 if self.serial else self.batch or len(cells)
        for first in range(0, len(cells), size):
            chunk = cells[first : first + size]
            if self.serial and self._names:
                print(self._announcement(chunk[0].folder), flush=True)
            returned += self._launch([cell.folder for cell in chunk], names)
        return returned

    def _freeze(self, cell: Cell) -> None:
        """Write the configuration of a cell, unless a process works on it; ``rerun`` is already handled."""
        if cell.folder.is_busy():
            return
        shown = cell.config["progress"]
        quiet = shown == "auto" and not self.serial  # bars of several processes would overwrite each other
        cell.folder.write_config({**cell.config, "rerun": False, "progress": "lines" if quiet else shown})

    def _launch(self, folders: Sequence[RunFolder], names: Mapping[RunFolder, str]) -> list[Any]:
        from hydra_plugins.sparsebench_grids.launcher import PoolLauncher

        overrides = [override_for(folder.path) for folder in folders]
        number, self.started = self.started, self.started + len(folders)
        if isinstance(self.launcher, PoolLauncher):  # it prefixes each line with a name
            self.launcher.labels = dict(zip(overrides, (names[folder] for folder in folders), strict=True))
        return list(self.launcher.launch([[override] for override in overrides], initial_job_idx=number))

    def _announcement(self, folder: RunFolder) -> str:
        """Return the next cell, and when all will have ended at the current pace."""
        number, total = self._numbers[folder], len(self._numbers)
        left = ""
        if self.started:
            pace = (time.monotonic() - self._began) / self.started
            left = f"  about {clock(pace * (total - number + 1))} left"
        return f"sparsebench: {number}/{total}  {self._names[folder]}{left}"


def _by_folder(cells: Sequence[Cell]) -> dict[RunFolder, str]:
    return dict(zip((cell.folder for cell in cells), names_of(cells), strict=True))
