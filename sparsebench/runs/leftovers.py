"""Remove half-written files and unused locks that a killed process has left in the folder of a run."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from sparsebench.runs import files
from sparsebench.runs.activity import Busy
from sparsebench.runs.atomic import PARTIAL
from sparsebench.runs.folder import RunFolder
from sparsebench.runs.lock import is_alive, is_taken

_PATTERNS = (f"*{PARTIAL}", f"{files.STAGES}/*/*{PARTIAL}")


def remove_leftovers(folder: RunFolder) -> None:
    """Remove half-written files of dead processes and locks of stages that no process holds.

    Call it while holding the run, before training continues. Files of living processes of this machine stay.
    """
    for path in _abandoned(folder.path):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def tidy_finished(folder: RunFolder) -> None:
    """Remove the lock and the heartbeat of a process that was killed after it had finished the run.

    Nothing happens while a process works on the run, or if the folder is not writable.
    """
    if not ((folder.path / files.LOCK).exists() or folder.heartbeat()):
        return
    with contextlib.suppress(OSError, Busy), folder.hold(wait=False) as held:
        if held.first:
            folder.end_heartbeat()
            remove_leftovers(folder)


def _abandoned(folder: Path) -> Iterator[Path]:
    for path in [found for pattern in _PATTERNS for found in folder.glob(pattern)]:
        writer = re.search(rf"\.(\d+){re.escape(PARTIAL)}$", path.name)
        if writer is None or not is_alive(int(writer[1])):
            yield path
    for path in folder.glob("*.lock"):
        if path.name != files.LOCK and not is_taken(path):
            yield path
