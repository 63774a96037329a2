"""Lock files: locks of the system (``flock``) that vanish with their last holder, however it dies.

A file left behind, by a ``kill -9`` for example, is no lock. Process id and host stand in it for people. Here is the
standard library alone: every floor may lock, and ``sparsebench status`` answers at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

_PROBES, _PAUSE = 4, 0.02  # whoever only looks holds the lock for an instant, which must not pass for a holder


@dataclass(frozen=True)
class Held:
    """A lock that this process holds.

    Attributes:
        path: the file.
        handle: the open file; a child process that inherits it holds the lock as well.
        first: nobody else holds it.
    """

    path: Path
    handle: int
    first: bool

    def release(self) -> None:
        """Let go; the last holder removes the file."""
        if _lock(self.handle, fcntl.LOCK_EX):
            self.path.unlink(missing_ok=True)  # while locked: whoever waits sees that the file is another one
        os.close(self.handle)


def take(path: Path, *, join: bool = False) -> Held | None:
    """Take a lock, or return None where another process holds it.

    Args:
        path: the file; made if needed.
        join: hold it along with others that join.
    """
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
    return Held(path, handle, first)


def is_taken(path: Path) -> bool:
    """Tell whether a living process holds a lock."""
    try:
        handle = os.open(path, os.O_RDWR)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        return not _lock(handle, fcntl.LOCK_EX)
    finally:
        os.close(handle)


def holder(path: Path) -> str:
    """Return who holds a lock, for people."""
    with contextlib.suppress(OSError):
        return path.read_text().strip() or "a process"
    return "a process"


def _lock(handle: int, kind: int) -> bool:
    for _ in range(_PROBES):
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(_PAUSE)
    return False
