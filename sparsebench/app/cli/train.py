"""``sparsebench train``: compose a configuration or a grid, and train each run to the end."""

from __future__ import annotations

import os
from typing import Any

from sparsebench.app.cli.train_help import page, wants_help
from sparsebench.app.config.check import check_overrides, normalise
from sparsebench.app.errors import stop
from sparsebench.runs.folder import RunFolder


def main(arguments: list[str]) -> None:
    """Run Hydra over our configuration tree, or print the help page."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us; we print them as one line
    try:
        arguments = normalise(arguments)
        check_overrides(arguments)
    except ValueError as error:
        stop(str(error))
    if wants_help(arguments):
        print(page(arguments))
        return
    from sparsebench.app.grid.job import Task, call_through_hydra

    failures = call_through_hydra(arguments, Task(_train, _train_cell))
    if failures:
        stop(f"{len(failures)} of the runs failed: {'; '.join(failures)}", code=1)


def _train(config: dict[str, Any]) -> float | None:
    from sparsebench.app.process.execute import run_config

    return _told(run_config(config))


def _train_cell(folder: RunFolder) -> float | None:
    from sparsebench.app.process.execute import run_frozen

    return _told(run_frozen(folder))


def _told(result: dict[str, Any]) -> float | None:
    """Print how a run ended, and return the value that a sweeper may optimise."""
    from sparsebench.app.grid.job import sentence

    print(sentence(result), flush=True)
    return result["val_accuracy"]
