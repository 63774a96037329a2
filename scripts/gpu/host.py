"""The clock, the processes and the run folders of a check: all that a simulation replaces."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsebench.runs.folder import RunFolder

REPOSITORY = Path(__file__).resolve().parents[2]
GRACE = 5.0
"""Seconds between asking processes to end and ending them."""
ENDINGS = ((signal.SIGINT, GRACE), (signal.SIGTERM, 2.0), (signal.SIGKILL, 1.0))
"""Signals in turn, with the seconds that each is given."""
RESERVE = GRACE + sum(seconds for _, seconds in ENDINGS)
"""Seconds at the end of a part in which its processes stop or are ended, at the longest."""


class Host:
    """Give a check its clock, its processes and its run folders: this machine's."""

    now = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)

    def start(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Any:
        """Start a process of this repository in a separate group; its output goes to a file."""
        with log.open("ab") as file:
            return subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env={**os.environ, "NO_COLOR": "1", **environment},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def tell(self, process: Any, sign: signal.Signals) -> None:
        """Send a signal to a process and its children."""
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:  # it has just ended
            return

    def end(self, processes: Sequence[Any]) -> None:
        """End processes, all at once: first by asking, as from the keyboard, so that pytest still writes its counts."""
        for sign, seconds in ENDINGS:
            alive = [process for process in processes if process.poll() is None]
            for process in alive:
                self.tell(process, sign)
            self.wait(alive, self.now() + seconds)

    def wait(self, processes: Sequence[Any], until: float) -> bool:
        """Wait until all processes have ended, or a moment; return whether they have."""
        while any(process.poll() is None for process in processes):
            if self.now() >= until:
                return False
            self.sleep(0.1)
        return True

    def run(self, command: Sequence[str], seconds: float) -> str:
        """Return the output of a short command, or why there is none."""
        try:
            done = subprocess.run(
                command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=max(1.0, seconds)
            )
        except subprocess.TimeoutExpired:
            return "out of time\n"
        return done.stdout or done.stderr

    # -- runs -------------------------------------------------------------------------------------------------------

    def steps(self, folder: Path) -> tuple[int, int] | None:
        """Return the steps that a training has taken and all that it has to take; None before the first."""
        sign = RunFolder(folder).heartbeat()
        return (sign["step"], sign["steps"]) if sign.get("steps") and "step" in sign else None

    def ask_to_stop(self, folder: Path, why: str) -> None:
        """Ask a training to stop at the end of its epoch."""
        RunFolder(folder).ask_to_stop(why)

    def result(self, folder: Path) -> dict[str, Any]:
        """Return the numbers of a finished training; empty for another."""
        run = RunFolder(folder)
        return dict(run.result()) if run.is_finished() else {}
