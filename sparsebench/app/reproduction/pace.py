"""How long a run of a cell takes on this machine: from finished runs, from the user's cache, or measured."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sparsebench.results.reproduction import Cell
from sparsebench.runs.atomic import write_atomically
from sparsebench.runs.folder import RunFolder

_PACE_STEPS = 150  # of the run that is timed where nothing else tells


class NoPace(RuntimeError):
    """Raised when a preset cannot be timed, with the reason in one line."""


class Pace:
    """Seconds per run of each preset and method, remembered per machine.

    Args:
        cache: file of measured values; ``$XDG_CACHE_HOME/sparsebench/pace.json`` by default.
        say: called with a line before a measurement.
    """

    def __init__(self, cache: Path | None = None, say: Callable[[str], None] = print) -> None:
        self.cache, self.say = cache or default_cache(), say
        self._seconds: dict[str, float] = {}
        self._failed: dict[str, str] = {}

    def seconds(self, cell: Cell, config: Mapping[str, Any], finished: Mapping[int, Mapping[str, Any]]) -> float:
        """Return the seconds that one run of a cell takes.

        Args:
            cell: a published cell.
            config: its frozen configuration.
            finished: its results on this machine, by seed.

        Raises:
            NoPace: a short run failed; says why.
        """
        if finished:
            return sum(result["seconds"] for result in finished.values()) / len(finished)
        key = f"{cell.recipe.preset} {config['choices']['method']} on {machine()}"
        if key in self._failed:
            raise NoPace(self._failed[key])
        if key not in self._seconds:
            self._seconds[key] = self._recall(key, cell, config)
        return self._seconds[key]

    def _recall(self, key: str, cell: Cell, config: Mapping[str, Any]) -> float:
        from sparsebench.app.plan.describe import describe

        steps = describe(config)["steps"]
        known = self._read()
        if key not in known:
            self.say(f"sparsebench: measuring the pace of {cell.recipe.preset} ({config['choices']['method']})")
            try:
                known[key] = _seconds_per_step(cell, steps)
            except NoPace as error:
                self._failed[key] = str(error)
                raise
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.cache, json.dumps({**self._read(), key: known[key]}, indent=1) + "\n")
        return known[key] * steps

    def _read(self) -> dict[str, float]:
        try:
            found = json.loads(self.cache.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # not there yet, or damaged: it is measured anew
            return {}
        return {key: float(value) for key, value in found.items() if isinstance(value, int | float) and value > 0}


def default_cache() -> Path:
    """Return the file in the user's cache that remembers measured paces."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparsebench" / "pace.json"


def machine() -> str:
    """Return the machine, cores and threads that a measured pace belongs to."""
    return f"{platform.node()} ({os.cpu_count()} cores, {os.environ.get('OMP_NUM_THREADS', '1')} threads)"


def train_command() -> list[str]:
    """Return the command that trains, without overrides."""
    return [sys.executable, "-m", "sparsebench", "train"]


def _seconds_per_step(cell: Cell, steps: int) -> float:
    """Time a short run of a cell."""
    with tempfile.TemporaryDirectory() as place:
        short = ["trainer.max_epochs=-1", f"trainer.max_steps={min(_PACE_STEPS, steps)}", "progress=none"]
        folder = ["output_root=" + place, "run_dir=" + os.path.join(place, "pace")]
        command = [*train_command(), *cell.arguments, *folder, *short]
        environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["the run ended without a word"]
            raise NoPace(lines[-1].removeprefix("sparsebench: error: "))
        taken = RunFolder(Path(place) / "pace").result()
    return taken["seconds"] / taken["steps"]
