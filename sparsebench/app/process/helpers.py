"""Additional processes for one run: each executes the same recipe in the same folder; locks divide the work.

The first process to reach a stage trains it; the others load its result. Processes exchange nothing else, so a helper
may die or start late without harm. All use the same number of threads, which can change the last digits of a sum.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsebench.app.process.sockets import shorten_socket_folder
from sparsebench.runs.folder import RunFolder

if TYPE_CHECKING:
    from sparsebench.fits import Run

MARK = "SPARSEBENCH_HELPER"
"""Environment variable of a helper: the id of the process that it helps."""


def number_of(config: Mapping[str, Any]) -> int:
    """Return the number of processes a run may use: the key ``workers`` of its configuration.

    Raises:
        ValueError: the number is below one, or the run already has several processes per stage.
    """
    workers, trainer = config["workers"], config["trainer"]
    if not isinstance(workers, int) or workers < 1:
        raise ValueError(f"recipe.workers={workers} is impossible: give a whole number of at least 1")
    if workers > 1 and (trainer["devices"] not in (1, "1") or trainer["num_nodes"] > 1):
        raise ValueError(
            f"recipe.workers={workers} with trainer.devices={trainer['devices']}: the first trains a stage in one "
            f"process, the second "
            "in several; choose one of the two"
        )
    return workers


@contextlib.contextmanager
def helpers(folder: Path, config: Mapping[str, Any], run: Run) -> Iterator[None]:
    """Start ``recipe.workers - 1`` helper processes for this run; report the speed-up, and end them afterwards."""
    workers, began = number_of(config), time.monotonic()
    started = [_start(folder, number) for number in range(1, workers)]
    try:
        yield
        trained = run.journal.seconds_trained()
        if workers > 1 and trained is not None:
            print(f"sparsebench: {workers} processes: {gain(trained, time.monotonic() - began)}", flush=True)
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()


def help_out(folder: Path) -> None:
    """Execute the recipe of a run as a helper: no test, no result."""
    _die_with(int(os.environ[MARK]))
    from sparsebench.app.config.build import build_recipe, build_run
    from sparsebench.app.config.compose import lift_workers
    from sparsebench.app.process.console import quieten

    config = lift_workers(RunFolder(folder).config())
    quieten()
    shorten_socket_folder()
    build_recipe(config)(build_run({**config, "progress": "none"}, folder, shared=True))


def gain(trained: float, seconds: float) -> str:
    """Return the speed-up by several processes: seconds of training over the elapsed seconds."""
    return f"{trained:.1f} s of training in {seconds:.1f} s, {trained / seconds:.2f} times as fast as one process"


def _start(folder: Path, number: int) -> subprocess.Popen[bytes]:
    import torch

    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    devices = torch.cuda.device_count()
    own = {"CUDA_VISIBLE_DEVICES": _device(number % devices)} if devices > 1 else {}
    environment = {**os.environ, **threads, **own, MARK: str(os.getpid())}
    command = [sys.executable, "-m", "sparsebench.app.process.helpers", str(folder)]
    with RunFolder(folder).helper_log(number).open("wb") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)


def _device(index: int) -> str:
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return visible[index] if visible else str(index)


def _die_with(parent: int) -> None:
    """End this process soon after the process that it helps, however that one ends."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    help_out(Path(sys.argv[1]))
