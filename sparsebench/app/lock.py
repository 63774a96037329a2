"""One launch per run folder: a lock that the system takes back when its holder dies, and what the folder says.

Nothing heavy is imported here, so that ``sparsebench status`` answers at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOCK, RUNNING, STOP = "run.lock", "running.json", "stop"
_PROBES, _POLL = 4, 0.02  # whoever only looks holds the lock for an instant, which must not pass for a holder
_STALE = 180.0  # seconds without a sign of life, after which a run on another machine counts as dead


class Busy(RuntimeError):
    """Another process is at work in the folder."""


@dataclass(frozen=True)
class Held:
    """A lock that this process holds.

    Attributes:
        handle: the open file; a child process that inherits it holds the lock as well.
        first: nobody else is at work in the folder.
    """

    handle: int
    first: bool


@contextlib.contextmanager
def hold(folder: Path, *, wait: bool = True, join: bool = False, poll: float = 0.2) -> Iterator[Held]:
    """Hold the lock of a run folder, an advisory one of the system (``flock``).

    It vanishes with the last process that holds it, also after a ``kill -9``: a file left behind is no lock. Process
    id and host stand in the file for people.

    Args:
        folder: the run folder; made if needed.
        wait: wait for as long as somebody else holds it.
        join: the run divides its work among processes: work along with others that join.
        poll: seconds between two attempts.

    Raises:
        Busy: somebody else holds it, and ``wait`` is false.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, told = folder / LOCK, False
    while (held := _take(path, join=join)) is None:
        if not wait:
            raise Busy(f"{folder} is at work in {holder(folder)}")
        if not told:
            print(f"sparsebench: {folder} is at work in {holder(folder)}: waiting for it", flush=True)
            told = True
        time.sleep(poll)
    try:
        yield held
    finally:
        if _lock(held.handle, fcntl.LOCK_EX):
            path.unlink(missing_ok=True)  # while locked: whoever waits sees that the file is another one
        os.close(held.handle)


def is_busy(folder: Path) -> bool:
    """Tell whether a living process is at work in a run folder."""
    try:
        handle = os.open(folder / LOCK, os.O_RDWR)
    except (FileNotFoundError, NotADirectoryError):
        return _lives_elsewhere(folder)
    try:
        return not _lock(handle, fcntl.LOCK_EX) or _lives_elsewhere(folder)
    finally:
        os.close(handle)


def holder(folder: Path) -> str:
    """Return who is at work in a folder, for people."""
    with contextlib.suppress(OSError):
        return (folder / LOCK).read_text().strip() or "a process"
    return "a process"


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


def _take(path: Path, *, join: bool) -> Held | None:
    if _lives_elsewhere(path.parent) and not join:
        return None
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    first = _lock(handle, fcntl.LOCK_EX)
    taken = first or (join and _lock(handle, fcntl.LOCK_SH))
    try:
        if taken and path.stat().st_ino != os.fstat(handle).st_ino:
            taken = False  # the holder has just removed this file: its successor is the lock
    except FileNotFoundError:
        taken = False
    if not taken:
        os.close(handle)
        return None
    if first:
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        if join:
            _lock(handle, fcntl.LOCK_SH)
    return Held(handle, first)


def _lock(handle: int, kind: int) -> bool:
    for _ in range(_PROBES):
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(_POLL)
    return False
