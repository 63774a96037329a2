"""Train one frozen configuration: ``python -m sparsebench.app.process.worker FOLDER``, on every rank."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sparsebench.app.errors import STOPPED, USER, USER_ERRORS, explain, record_failure, stop
from sparsebench.app.process.console import PREFIX, one_line_warnings, quieten, speak_for
from sparsebench.app.process.ranks import is_several, single_process
from sparsebench.app.process.signals import heeding_signals, interrupted_code
from sparsebench.app.process.sockets import shorten_socket_folder
from sparsebench.app.process.threads import choose_threads, restoring_threads
from sparsebench.runs.activity import Stopped
from sparsebench.runs.folder import RunFolder


def work(folder: RunFolder) -> None:
    """Train, test once, and write the final tensors and the result."""
    config = folder.config()
    ranks = contextlib.nullcontext() if is_several(config["trainer"]) else single_process()
    with ranks, one_line_warnings(), restoring_threads():
        _work(folder, config)


def _work(folder: RunFolder, config: Mapping[str, Any]) -> None:
    from sparsebench.app.config.build import build_recipe, build_run
    from sparsebench.app.config.compose import lift_workers
    from sparsebench.app.process.helpers import helpers, number_of
    from sparsebench.app.process.result import outcome
    from sparsebench.fits import evaluate
    from sparsebench.fits.state import save_tensors
    from sparsebench.results.record import without_nan

    quieten()
    shorten_socket_folder()
    run, config = None, lift_workers(config)
    try:
        run = build_run(config, folder.path, shared=number_of(config) > 1)
        choose_threads(run.setup, config)
        run = run.replace(progress=partial(_watched, run.setup.progress, folder))
        recipe = build_recipe(config)
        with helpers(folder.path, config, run):
            state = recipe(run)
        tested = evaluate(run.setup, state)
        result = outcome(run.setup, state, tested, config)
        if rank() == 0:
            save_tensors(dict(state.weights), folder.final)
            save_tensors(dict(state.masks), folder.masks)
            if state.members:
                save_tensors([dict(weights) for weights in state.members], folder.members)
            folder.finish(without_nan(result))
    except BaseException as error:
        interrupted = isinstance(error, (KeyboardInterrupt, SystemExit))  # by a person, or by a scheduler's signal
        if rank() == 0 and not interrupted:
            _record(folder, error)
        if run is not None:
            with contextlib.suppress(OSError):
                run.close_loggers(failed=True)
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into an exit
            raise KeyboardInterrupt from None
        raise
    run.close_loggers(summary=result)


def _record(folder: RunFolder, error: BaseException) -> None:
    """Mark a run as stopped or failed; an error in doing so must not hide the first one."""
    with contextlib.suppress(OSError):  # a full disk, for example
        if isinstance(error, Stopped):
            folder.stop(f"{type(error).__name__}: {error}")
        else:
            record_failure(folder, error)


def _watched(progress: Callable[[], Sequence[Any]], folder: RunFolder) -> list[Any]:
    """Return the callbacks that show progress, and the one that records it for ``sparsebench status``."""
    from sparsebench.engine.callbacks.heartbeat import Heartbeat

    return [*progress(), Heartbeat(folder.write_heartbeat, asked=folder.asked_to_stop)]


def rank() -> int:
    """Return the rank of this process, from the trainer if it exists, otherwise from the launcher."""
    from lightning.pytorch.utilities import rank_zero_only

    return int(getattr(rank_zero_only, "rank", 0))


def main(folder: RunFolder) -> None:
    """Run as a separate process, and report errors in one line."""
    try:
        with heeding_signals():
            work(folder)
    except KeyboardInterrupt:
        sys.exit(interrupted_code())
    except Exception as error:
        expected = isinstance(error, USER_ERRORS)
        if folder.stopped():
            sys.exit(STOPPED)
        if expected and rank() == 0 and not folder.failure():  # if the disk is full, for example
            stop(explain(error))
        if expected or (rank() == 0 and folder.failure()):  # the parent process reports it
            sys.exit(USER if expected else 1)
        raise


if __name__ == "__main__":
    speak_for(os.environ.get(PREFIX, ""))
    main(RunFolder(Path(sys.argv[1])))
