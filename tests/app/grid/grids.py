"""Grids of tiny runs: a command line in a process of its own, and what the runs must come to."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from support import Answer, environment_of

TINY = ["model=mlp", "model.hidden=[16]", "dataset=digits", "dataset.limit=128", "dataset.batch_size=16",
        "trainer.accelerator=cpu", "trainer.max_epochs=2", "sparsity=0.5", "progress=none", "every=3"]  # fmt: skip
GRID = ["method=rigl,static", "seed=0,1"]
"""Four cells of half a second."""


def _hear_ctrl_c() -> None:
    """Hear Ctrl-C as in a terminal: what a shell starts in the background inherits that it is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Bench:
    """The command line in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.outputs = folder / "outputs"
        self.started: list[subprocess.Popen] = []

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen:
        """Start a process group of its own."""
        process = subprocess.Popen(
            [sys.executable, "-m", "sparsebench", *arguments],
            cwd=self.folder, env=environment_of(SPARSEBENCH_DATA=str(self.folder), **environment), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            preexec_fn=_hear_ctrl_c,
        )  # fmt: skip
        self.started.append(process)
        return process

    def end(self) -> None:
        """End what a failed test has left behind."""
        for process in self.started:
            if process.poll() is None:
                kill(process)

    def run(self, *arguments: str, timeout: float = 600, **environment: str) -> Answer:
        process = self.start(*arguments, **environment)
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            kill(process)
            raise
        return Answer(process.returncode, out, err)

    def train(self, *arguments: str, **environment: str) -> Answer:
        return self.run("train", "-m", *TINY, *arguments, **environment)

    def results(self, name: str = "runs") -> dict[str, tuple]:
        """Return what must be equal, digit for digit, by folder."""
        return {path.parent.name: essence(path.parent) for path in sorted((self.outputs / name).rglob("DONE"))}

    def wait_for(self, pattern: str, number: int = 1, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while len(list(self.outputs.rglob(pattern))) < number:
            assert time.monotonic() < end, f"no {pattern} within {seconds} s"
            time.sleep(0.02)

    def moments(self) -> dict[str, int]:
        return {path.parent.name: path.stat().st_mtime_ns for path in self.outputs.rglob("DONE")}


def essence(folder: Path) -> tuple:
    result = json.loads((folder / "result.json").read_text())
    keys = ("weights_digest", "mask_digest", "test_accuracy", "val_accuracy", "test_loss", "train_flops_ratio", "steps")
    return tuple(result[key] for key in keys)


def kill(process: subprocess.Popen, how: int = signal.SIGKILL) -> None:
    """Signal the whole process group."""
    os.killpg(process.pid, how)
    process.communicate()
