"""RunFolder: queries about a run on disk, and every change of its state.

Only the standard library is used, and PyYAML where YAML is read, so ``sparsebench status`` works without importing
torch.
"""

from __future__ import annotations

import contextlib
import csv
import json
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from sparsebench.runs import activity, files
from sparsebench.runs.atomic import create_atomically, write_atomically
from sparsebench.runs.files import RunFiles
from sparsebench.runs.lock import Held
from sparsebench.runs.walk import walk

STATES = ("running", "failed", "stopped", "interrupted", "waiting", "done")
"""Possible states of a run, in the order of ``sparsebench status``."""
_EARLY = "(before training began)"


@dataclass(frozen=True, order=True)
class RunFolder(RunFiles):
    """The folder of one run: its files, its state, and the process that works on it.

    Attributes:
        path: path of the folder; it need not exist.
    """

    # -- queries ------------------------------------------------------------------------------------------------

    def is_finished(self) -> bool:
        """Return True once the run has a result and all its files."""
        return (self.path / files.DONE).exists()

    def has_trained(self) -> bool:
        """Return True if any training has left files, even if the run failed or was interrupted later."""
        return "step" in self.heartbeat() or any(found for name in files.TRACES for found in self.path.glob(name))

    def state(self) -> str:
        """Return the state of the run: one of ``STATES``."""
        if self.is_finished():
            return "done"
        if self.is_busy(looking=True):
            return "running"
        if self.failure():
            return "failed"
        if self.stopped():
            return "stopped"
        return "interrupted" if self.heartbeat() or self.has_trained() else "waiting"

    def config(self) -> dict[str, Any]:
        """Return the frozen configuration.

        Raises:
            ValueError: the file is missing or damaged.
        """
        import yaml

        try:
            loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
            config: object = yaml.load(self.config_file.read_text(encoding="utf-8"), loader)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            why = " ".join(str(error).split())
            raise ValueError(f"{self.config_file} cannot be read ({why}): give the folder of a run") from None
        if not isinstance(config, dict):
            raise ValueError(f"{self.config_file} is not a configuration: give the folder of a run")
        return cast("dict[str, Any]", config)

    def result(self) -> dict[str, Any]:
        """Return the numbers of a finished run.

        Raises:
            ValueError: the file is missing or damaged.
        """
        try:
            result: object = json.loads(self.result_file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            why = " ".join(str(error).split())
            raise ValueError(f"{self.result_file} cannot be read ({why}): rerun=true trains again") from None
        if not isinstance(result, dict):
            raise ValueError(f"{self.result_file} is not a result: rerun=true trains again")
        return cast("dict[str, Any]", result)

    def failure(self) -> str:
        """Return why the run failed, in one line, or an empty text."""
        return _first_line(self.failure_file)

    def stopped(self) -> str:
        """Return why the run was stopped before its end, in one line, or an empty text."""
        return _first_line(self.path / files.STOPPED)

    def curve(self) -> list[float]:
        """Return the validation accuracy of each epoch so far."""
        with contextlib.suppress(OSError, ValueError), self.metrics.open(newline="", encoding="utf-8") as file:
            return [float(row["val_accuracy"]) for row in csv.DictReader(file) if row.get("val_accuracy")]
        return []

    # -- changes of state -----------------------------------------------------------------------------------------

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the frozen configuration; the folder is created if needed."""
        import yaml

        dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
        write_atomically(self.config_file, yaml.dump(dict(config), Dumper=dumper, sort_keys=False))

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write the numbers of the run and mark it as finished; its tensors must have been written before."""
        write_atomically(self.result_file, json.dumps(dict(result), indent=2, allow_nan=False) + "\n")
        write_atomically(self.path / files.DONE, "")

    def fail(self, why: str, details: str = "", *, keep: bool = False) -> None:
        """Mark the run as failed: the reason, details such as a traceback, and unless ``keep``, whether it is empty."""
        early = "" if keep or self.has_trained() else f"{_EARLY}\n"
        write_atomically(self.failure_file, f"{why}\n{details}{early}")

    def failed_before_training(self) -> bool:
        """Return True if the run failed while its parts were built, so that no file is worth keeping."""
        try:
            return self.failure_file.read_text(encoding="utf-8", errors="replace").rstrip().endswith(_EARLY)
        except OSError:
            return False

    def stop(self, why: str) -> None:
        """Mark the run as stopped before its end."""
        write_atomically(self.path / files.STOPPED, f"{why}\n")

    def reopen(self) -> None:
        """Clear a failed or stopped state, so that the run can continue."""
        for name in (files.FAILED, files.STOPPED):
            (self.path / name).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all results of training, so that it starts from scratch; the configuration stays."""
        for path in [found for name in files.LEFT for found in self.path.glob(name)]:
            path.unlink(missing_ok=True)

    def remove(self) -> bool:
        """Remove all files of the run, and the folder unless it holds other files; return True if it is gone.

        Raises:
            Busy: a process works on it.
        """
        named_by_us = re.search(r"--[0-9a-f]{8}$", self.path.name)
        patterns = files.OWN if named_by_us else files.CERTAIN
        with self.hold(wait=False):
            for path in [found for name in patterns for found in self.path.glob(name)]:
                path.unlink(missing_ok=True)
            for name in files.FOLDERS:
                shutil.rmtree(self.path / name, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()
        return not self.path.exists()

    def attempt(self) -> str:
        """Return 6 digits that identify this attempt at the run, by folder and last ``clear``.

        They are drawn on first use, and kept while the attempt continues.
        """
        path = self.path / files.ATTEMPT
        for _ in range(2):
            with contextlib.suppress(OSError):
                if re.fullmatch("[0-9a-f]{6}", found := path.read_text(encoding="utf-8", errors="replace").strip()):
                    return found
                path.unlink()  # damaged
            create_atomically(path, f"{secrets.token_hex(3)}\n")
        return path.read_text(encoding="utf-8").strip()

    # -- the working process -------------------------------------------------------------------------------------------

    def hold(self, *, wait: bool = True, join: bool = False) -> AbstractContextManager[Held]:
        """Hold the run for this process (see ``activity.hold``)."""
        return activity.hold(self.path / files.LOCK, self.path / files.HEARTBEAT, wait=wait, join=join)

    def is_busy(self, *, looking: bool = False) -> bool:
        """Return True while a living process works on the run, on this machine or another.

        Args:
            looking: write nothing; by default the disk's clock is read by writing a file, if necessary.
        """
        return activity.is_busy(self.path / files.LOCK, self.path / files.HEARTBEAT, looking=looking)

    def holder(self) -> str:
        """Return a description of the process that works on the run."""
        return activity.holder(self.path / files.LOCK)

    def heartbeat(self) -> dict[str, Any]:
        """Return the last heartbeat: process, host, times, progress; empty if there is none."""
        return activity.read_heartbeat(self.path / files.HEARTBEAT)

    def heartbeat_age(self) -> float:
        """Return the seconds since the last heartbeat by this machine's clock, or 0 if there is none."""
        with contextlib.suppress(OSError):
            return max(0.0, time.time() - (self.path / files.HEARTBEAT).stat().st_mtime)
        return 0.0

    def write_heartbeat(self, **facts: Any) -> None:
        """Write the process that works on the run, since when, and facts such as its progress."""
        activity.write_heartbeat(self.path / files.HEARTBEAT, **facts)

    def end_heartbeat(self) -> None:
        """Remove the heartbeat when work on the run ends."""
        (self.path / files.HEARTBEAT).unlink(missing_ok=True)

    def ask_to_stop(self, why: str) -> None:
        """Ask the process that works on the run to stop at the end of an epoch."""
        write_atomically(self.path / files.STOP, why)

    def forget_stop(self) -> None:
        """Withdraw a request to stop."""
        (self.path / files.STOP).unlink(missing_ok=True)

    def asked_to_stop(self) -> str:
        """Return the reason of a request to stop, or an empty text."""
        path = self.path / files.STOP
        try:
            return path.read_text(encoding="utf-8", errors="replace").strip() or "stop requested"
        except OSError:
            return ""


def runs_below(root: Path) -> Iterator[RunFolder]:
    """Yield every folder at or below ``root`` that holds a configuration or a result, in order."""
    for place, folders, names in walk(root):
        is_run = files.CONFIG in names or files.RESULT in names
        if is_run:
            yield RunFolder(Path(place))
        own = files.FOLDERS if is_run else ()
        folders[:] = [name for name in folders if name not in own]


def _first_line(path: Path) -> str:
    """Return the first line of a file with a reason, or an empty text if the file does not exist."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[0] if lines else "no reason was recorded"
    except OSError:
        return ""
