"""One launch per run folder: a lock that the system takes back when its holder dies, and what the folder says.

Nothing heavy is imported here, so that ``sparsebench status`` answers at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from sparsebench.runs import lock as filelock
from sparsebench.runs.lock import Held

LOCK, RUNNING, STOP = "run.lock", "running.json", "stop"
_STALE = 180.0  # seconds without a sign of life, after which a run on another machine counts as dead


class Busy(RuntimeError):
    """Another process is at work in the folder."""


@contextlib.contextmanager
def hold(folder: Path, *, wait: bool = True, join: bool = False, poll: float = 0.2) -> Generator[Held]:
    """Hold the lock of a run folder; it vanishes with the last process that holds it.

    Args:
        folder: the run folder; made if needed.
        wait: wait for as long as somebody else holds it.
        join: the run divides its work among processes: work along with others that join.
        poll: seconds between two attempts.

    Raises:
        Busy: somebody else holds it, and ``wait`` is false.
    """
    folder.mkdir(parents=True, exist_ok=True)
    told = False
    while (held := _take(folder, join=join)) is None:
        if not wait:
            raise Busy(f"{folder} is at work in {holder(folder)}")
        if not told:
            print(f"sparsebench: {folder} is at work in {holder(folder)}: waiting for it", flush=True)
            told = True
        time.sleep(poll)
    try:
        yield held
    finally:
        held.release()


def is_busy(folder: Path) -> bool:
    """Tell whether a living process is at work in a run folder."""
    return filelock.is_taken(folder / LOCK) or _lives_elsewhere(folder)


def holder(folder: Path) -> str:
    """Return who is at work in a folder, for people."""
    return filelock.holder(folder / LOCK)


def running(folder: Path) -> dict[str, Any]:
    """Return the last sign of life of a run: process, host, beginning, progress; empty where there is none."""
    try:
        return json.loads((folder / RUNNING).read_text())
    except (OSError, ValueError):
        return {}


def give_sign(folder: Path, **facts: Any) -> None:
    """Write who is at work in a folder, since when, and how far it is; times are seconds of this host's clock."""
    now = time.time()
    began = running(folder).get("began", now) if facts else now
    sign = {"pid": os.getpid(), "host": socket.gethostname(), "began": began, "updated": now, **facts}
    partial = folder / f"{RUNNING}.{os.getpid()}.partial"
    partial.write_text(json.dumps(sign))
    os.replace(partial, folder / RUNNING)


def asked_to_stop(folder: Path) -> str:
    """Return why the run in a folder shall stop, or nothing."""
    try:
        return (folder / STOP).read_text().strip() or "somebody asked for it"
    except OSError:
        return ""


def _lives_elsewhere(folder: Path) -> bool:
    """Tell whether a process of another machine has given a sign of life: not every file system shares locks."""
    sign = running(folder)
    elsewhere = sign.get("host") not in (None, socket.gethostname())
    return elsewhere and time.time() - float(sign.get("updated", 0)) < _STALE


def _take(folder: Path, *, join: bool) -> Held | None:
    return None if _lives_elsewhere(folder) and not join else filelock.take(folder / LOCK, join=join)
