"""Search for hyper-parameters with Optuna (see ``sparsebench/app/grid/search.py``).

Hydra imports this module whenever it looks for plugins: nothing heavy may be imported here.
"""

from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class SearchSweeper(Sweeper):
    """Choose among ``choice(...)``, ``range(...)`` and ``interval(...)`` with Optuna; ``tag(log, ...)`` for logarithms.

    Args:
        params: override: values, in addition to the command line.
        options: see ``sparsebench.app.grid.search.Options``.
    """

    def __init__(self, params: Any = None, **options: Any) -> None:
        self.params, self.options = params or {}, options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store the parts that the search needs."""
        self.config: Any = config
        self.hydra_context: Any = hydra_context
        self.task_function = task_function

    def sweep(self, arguments: list[str]) -> Any:
        """Run the search with Optuna.

        Raises:
            ValueError: there is nothing to search for, or Optuna is missing.
            GridFailed: some trials failed.
        """
        from sparsebench.app.grid.cells import compose_cells
        from sparsebench.app.grid.launch import CellLauncher
        from sparsebench.app.grid.search import Options, Search

        try:
            import optuna  # noqa: F401
        except ImportError:
            raise ValueError("a search needs optuna: install sparsebench[optuna]") from None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*(f"{key}={value}" for key, value in self.params.items()), *arguments])
        space = {o.get_key_element(): distribution(o) for o in overrides if o.is_sweep_override()}
        if not space:
            raise ValueError("nothing to search for: give for example optimizer.lr='tag(log, interval(0.01, 0.5))'")
        fixed = {o.get_key_element(): o.get_value_element_as_str() for o in overrides if not o.is_sweep_override()}
        seeds = self.options.pop("seeds", None)
        Search(
            options=Options(**self.options, seeds=None if seeds is None else list(seeds)),
            space=space,
            compose=lambda jobs: compose_cells(self.hydra_context, self.config, jobs),
            launch=CellLauncher(self.hydra_context, self.task_function, self.config),
            place=Path(self.config.hydra.sweep.dir),
        ).run([f"{key}={value}" for key, value in fixed.items()])


def distribution(override: Override) -> Any:
    """Translate a sweep from Hydra's command line to an Optuna distribution."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value: Any = override.value()
    logarithmic = "log" in value.tags
    if override.is_interval_sweep():
        kind = IntDistribution if isinstance(value.start, int) else FloatDistribution
        return kind(value.start, value.end, log=logarithmic)
    if override.is_range_sweep() and all(isinstance(n, int) for n in (value.start, value.stop, value.step)):
        numbers = range(value.start, value.stop, value.step)
        if value.step > 0 and numbers:
            return IntDistribution(numbers[0], numbers[-1], step=value.step, log=logarithmic)
    return CategoricalDistribution([text.strip() for text in override.sweep_string_iterator()])
