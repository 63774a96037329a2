"""A sweeper for grids that knows every cell before the first one starts.

Hydra imports this module whenever it looks for plugins: nothing heavy may be imported here.
"""

from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class GridSweeper(BasicSweeper):
    """Run all combinations of values, skip finished cells, and finish every other cell.

    Overrides and options are those of Hydra's own sweeper.
    """

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store the parts that jobs need; the launcher is created when cells are known."""
        self.config, self.hydra_context, self.task_function = config, hydra_context, task_function

    def sweep(self, arguments: list[str]) -> Any:
        """Run all cells of the grid.

        Raises:
            GridFailed: some cells failed; all others are finished.
        """
        from sparsebench.app.grid.cells import compose_cells
        from sparsebench.app.grid.finish import finish_grid
        from sparsebench.app.grid.launch import CellLauncher

        assert self.config is not None
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        (jobs,) = self.split_arguments(overrides, None)

        cells = compose_cells(self.hydra_context, self.config, jobs)
        able = [cell for cell in cells if not cell.error]
        batch = self.max_batch_size
        launch = CellLauncher(self.hydra_context, self.task_function, self.config, batch=batch, cells=able)
        finish_grid(cells, launch, place=Path(self.config.hydra.sweep.dir))
