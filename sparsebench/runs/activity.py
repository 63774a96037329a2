"""Which process works on a run: a lock released with its holder, and a heartbeat for other machines.

``RunFolder`` knows the paths of both files. Only the standard library is imported, so ``sparsebench status`` starts
quickly.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

from sparsebench.runs import lock as filelock
from sparsebench.runs.atomic import PARTIAL, write_atomically
from sparsebench.runs.lock import Held

_TEXTS = ("host", "stage")  # all other facts are numbers; damaged ones are left out
_STALE = 180.0  # seconds without a heartbeat, after which a run on another machine counts as dead


class Busy(RuntimeError):
    """Raised when another process works on the run."""


class Stopped(RuntimeError):
    """Raised when a run stops on request; the run can be continued."""


@contextlib.contextmanager
def hold(lock: Path, heartbeat: Path, *, wait: bool = True, join: bool = False, poll: float = 0.2) -> Generator[Held]:
    """Hold the lock of a run until the last holding process ends.

    Args:
        lock: the lock file; its folder is created if needed.
        heartbeat: the file of the run's heartbeat, which may come from another machine.
        wait: whether to wait while another process holds it.
        join: whether to share the lock with other processes that join, as runs do that divide their work.
        poll: seconds between two attempts.

    Raises:
        Busy: another process holds it, and ``wait`` is false.
    """
    told = False
    while (held := _take(lock, heartbeat, join=join)) is None:
        if not wait:
            raise Busy(f"{lock.parent} is in use by {holder(lock)}")
        if not told:
            print(f"sparsebench: {lock.parent} is in use by {holder(lock)}: waiting for it", flush=True)
            told = True
        time.sleep(poll)
    try:
        yield held
    finally:
        held.release()


def is_busy(lock: Path, heartbeat: Path, *, looking: bool = False) -> bool:
    """Return True while a living process works on the run, on this machine or another.

    Args:
        lock: the lock file of the run.
        heartbeat: the file of its heartbeat.
        looking: write nothing; the age of another machine's heartbeat is then measured by this machine's clock.
    """
    return filelock.is_taken(lock) or _alive_on_another_host(heartbeat, looking=looking)


def holder(lock: Path) -> str:
    """Return a description of the process that holds a lock."""
    return filelock.holder(lock)


def read_heartbeat(path: Path) -> dict[str, Any]:
    """Return the last heartbeat of a run: process, host, times, progress; empty if there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    facts = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    return {key: value for key, value in facts.items() if key in _TEXTS or isinstance(value, int | float)}


def write_heartbeat(path: Path, **facts: Any) -> None:
    """Write which process works on a run, since when, and its progress; times are by this host's clock."""
    now = time.time()
    began = read_heartbeat(path).get("began", now) if facts else now
    sign = {"pid": os.getpid(), "host": socket.gethostname(), "began": began, "updated": now, **facts}
    write_atomically(path, json.dumps(sign), durable=False)  # the next heartbeat follows within seconds


def _alive_on_another_host(heartbeat: Path, *, looking: bool = False) -> bool:
    """Return True if another machine wrote a heartbeat recently, since not every disk shares locks.

    Clocks of machines differ, so both the time of the heartbeat and the current time are taken from the disk's clock.
    """
    sign = read_heartbeat(heartbeat)
    if sign.get("host") in (None, socket.gethostname()) or "updated" not in sign:
        return False
    try:
        written = heartbeat.stat().st_mtime
    except OSError:
        return False
    return abs(_now(heartbeat.parent, looking=looking) - written) < _STALE


def _now(folder: Path, *, looking: bool) -> float:
    """Return the time by the clock of the disk of a folder, or by this machine's if the folder is not writable."""
    probe = folder / f"clock.{socket.gethostname()}.{os.getpid()}{PARTIAL}"
    if not looking:
        with contextlib.suppress(OSError):
            try:
                probe.write_bytes(b"")
                return probe.stat().st_mtime
            finally:
                probe.unlink(missing_ok=True)
    return time.time()


def _take(lock: Path, heartbeat: Path, *, join: bool) -> Held | None:
    if _alive_on_another_host(heartbeat) and not join:
        return None
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        return filelock.take(lock, join=join)
    except FileNotFoundError:  # another process has just removed the folder
        return None
