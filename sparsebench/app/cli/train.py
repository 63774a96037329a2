"""``sparsebench train``: compose a configuration, or a grid of them, and bring each run to its end."""

from __future__ import annotations

import os
from typing import Any

from sparsebench.app.config.check import check_overrides, normalise
from sparsebench.app.errors import stop
from sparsebench.app.grid.job import Task, call_through_hydra, is_ours, sentence
from sparsebench.app.process.execute import run_cell


def main(arguments: list[str]) -> None:
    """Run Hydra over our configuration tree."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us; we print them as one line
    try:
        arguments = normalise(arguments)
        check_overrides(arguments)
    except ValueError as error:
        stop(str(error))
    failures = call_through_hydra(arguments, Task(_train))
    if failures:
        stop(f"{len(failures)} of the runs failed: {'; '.join(failures)}", code=1)


def _train(config: dict[str, Any]) -> float | None:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()  # our sweepers come back to a cell that another launch is at work on
    result = run_cell(config, wait=hydra.mode != RunMode.MULTIRUN or not is_ours(hydra.sweeper))
    print(sentence(result), flush=True)
    return result["val_accuracy"]
