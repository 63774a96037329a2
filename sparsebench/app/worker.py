"""Train one frozen configuration: ``python -m sparsebench.app.worker FOLDER``, on every rank."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import yaml

from sparsebench.app.cell import USER_ERRORS, write_atomically
from sparsebench.app.errors import stop

_NOISE = (
    ".*does not have many workers.*",
    ".*lr_scheduler.step.*before.*optimizer.step.*",  # a step that only rewires
    ".*srun.*",
    ".*smaller than the logging interval.*",
    ".*LeafSpec.*",
)


def work(folder: Path) -> None:
    """Train, test once, and write ``result.json``, ``final.pt``, ``masks.pt`` and ``DONE``."""
    config: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text())

    from sparsebench.app.build import build_recipe, build_run
    from sparsebench.app.helpers import helpers
    from sparsebench.app.outcome import outcome
    from sparsebench.recipes.state import save_atomically
    from sparsebench.results.record import without_nan

    quieten()
    run = None
    try:
        run = build_run(config, folder)
        recipe = build_recipe(config)
        with helpers(folder, config, run):
            state = recipe(run)
        tested = run.evaluate(state)
        result = outcome(run, state, tested, config)
        if rank() == 0:
            save_atomically(dict(state.weights), folder / "final.pt")
            save_atomically(dict(state.masks), folder / "masks.pt")
            if state.members:
                save_atomically([dict(weights) for weights in state.members], folder / "members.pt")
            write_atomically(folder / "result.json", json.dumps(without_nan(result), indent=2, allow_nan=False) + "\n")
            write_atomically(folder / "DONE", "")
    except BaseException as error:
        if rank() == 0:
            write_atomically(folder / "failed.txt", f"{type(error).__name__}: {error}\n")
        if run is not None:
            run.close_loggers(failed=True)
        raise
    run.close_loggers(summary=result)


def rank() -> int:
    """Return the rank of this process, before and after Lightning has started the others."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", os.environ.get("SLURM_PROCID", 0))))


def quieten() -> None:
    """Silence what Lightning says of itself."""
    import lightning.pytorch  # noqa: F401 (sets its own level when it is imported)

    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in _NOISE:
        warnings.filterwarnings("ignore", message=text)


if __name__ == "__main__":
    try:
        work(Path(sys.argv[1]))
    except USER_ERRORS as error:
        if rank() == 0:
            stop(str(error))
        sys.exit(2)
