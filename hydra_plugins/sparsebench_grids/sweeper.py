"""A sweeper for grids that knows every cell before the first one starts.

Hydra imports this module whenever it looks for plugins: nothing heavy may be imported here.
"""

from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser


class GridSweeper(BasicSweeper):
    """Run all combinations of values, skip finished cells, and finish every other cell.

    Overrides are read by Hydra's sweeper, whose options it has.
    """

    def sweep(self, arguments: list[str]) -> Any:
        """Run all cells of the grid.

        Raises:
            GridFailed: some cells failed; all others are finished.
        """
        from sparsebench.app.grid.cells import compose_cells
        from sparsebench.app.grid.finish import finish_grid

        assert self.config is not None
        assert self.hydra_context is not None
        assert self.launcher is not None
        launcher, started = self.launcher, 0
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        (jobs,) = self.split_arguments(overrides, None)

        def launch(batch: Any) -> list[Any]:
            nonlocal started
            returned: list[Any] = []
            for chunk in self.split_overrides_to_chunks([list(job) for job in batch], self.max_batch_size):
                number, started = started, started + len(chunk)
                returned += launcher.launch(chunk, initial_job_idx=number)
            return returned

        cells = compose_cells(self.hydra_context, self.config, jobs)
        finish_grid(cells, launch, place=Path(self.config.hydra.sweep.dir))
