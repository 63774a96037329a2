"""Train one frozen configuration: ``python -m sparsebench.app.process.worker FOLDER``, on every rank."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from sparsebench.app.errors import STOPPED, USER_ERRORS, stop
from sparsebench.app.process.console import PREFIX, quieten, speak_for
from sparsebench.runs.activity import asked_to_stop, give_sign
from sparsebench.runs.atomic import write_atomically


def work(folder: Path) -> None:
    """Train, test once, and write ``result.json``, ``final.pt``, ``masks.pt`` and ``DONE``."""
    config: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text())

    from sparsebench.app.config.build import build_recipe, build_run
    from sparsebench.app.config.compose import lift_workers
    from sparsebench.app.process.helpers import helpers, number_of
    from sparsebench.app.process.result import outcome
    from sparsebench.engine.callbacks.heartbeat import Stopped
    from sparsebench.fits import evaluate
    from sparsebench.fits.state import save_atomically
    from sparsebench.results.record import without_nan

    quieten()
    run, config = None, lift_workers(config)
    try:
        run = build_run(config, folder, shared=number_of(config) > 1)
        run = run.replace(progress=partial(_watched, run.setup.progress, folder))
        recipe = build_recipe(config)
        with helpers(folder, config, run):
            state = recipe(run)
        tested = evaluate(run.setup, state)
        result = outcome(run.setup, state, tested, config)
        if rank() == 0:
            save_atomically(dict(state.weights), folder / "final.pt")
            save_atomically(dict(state.masks), folder / "masks.pt")
            if state.members:
                save_atomically([dict(weights) for weights in state.members], folder / "members.pt")
            write_atomically(folder / "result.json", json.dumps(without_nan(result), indent=2, allow_nan=False) + "\n")
            write_atomically(folder / "DONE", "")
    except BaseException as error:
        interrupted = isinstance(error, (KeyboardInterrupt, SystemExit))  # by a person, or by a scheduler's signal
        if rank() == 0 and not interrupted:
            name = "stopped.txt" if isinstance(error, Stopped) else "failed.txt"
            write_atomically(folder / name, f"{type(error).__name__}: {error}\n")
        if run is not None:
            run.close_loggers(failed=True)
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into an exit
            raise KeyboardInterrupt from None
        raise
    run.close_loggers(summary=result)


def _watched(progress: Callable[[], Sequence[Any]], folder: Path) -> list[Any]:
    """Return the callbacks that show progress, and one that tells it to ``sparsebench status``."""
    from sparsebench.engine.callbacks.heartbeat import Heartbeat

    return [*progress(), Heartbeat(partial(give_sign, folder), asked=partial(asked_to_stop, folder))]


def rank() -> int:
    """Return the rank of this process, before and after Lightning has started the others."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", os.environ.get("SLURM_PROCID", 0))))


def main(folder: Path) -> None:
    """Work in a process of its own, and say in one line what was wrong."""
    try:
        work(folder)
    except USER_ERRORS as error:
        if rank() == 0:
            stop(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except RuntimeError:
        if (folder / "stopped.txt").exists():
            sys.exit(STOPPED)
        raise


if __name__ == "__main__":
    speak_for(os.environ.get(PREFIX, ""))
    main(Path(sys.argv[1]))
