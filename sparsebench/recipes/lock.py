"""One process per stage: a lock that the system takes back when its holder dies, however it dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_POLL = 0.1
_PATIENCE = 2.0


@contextlib.contextmanager
def lock(path: Path, *, quiet: bool = False) -> Iterator[None]:
    """Hold a lock file for the duration, and wait as long as another living process holds it.

    The lock is an advisory one of the system (``flock``): it vanishes with the process that holds it, also after a
    ``kill -9``, so that a file left behind is never taken for a lock. Process id and host stand in the file for people.

    Args:
        path: the file; removed at the end.
        quiet: wait without a word.
    """
    began, told = time.monotonic(), False
    while (handle := _take(path)) is None:
        if not quiet and not told and time.monotonic() - began > _PATIENCE:
            print(f"sparsebench: waiting for {path.stem}, at work in {holder(path)}", file=sys.stderr, flush=True)
            told = True
        time.sleep(_POLL)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before the lock is released: whoever waited sees that the file is another one
        os.close(handle)


def is_busy(path: Path) -> bool:
    """Tell whether a living process holds the lock."""
    try:
        handle = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def holder(path: Path) -> str:
    """Return who holds the lock, for people."""
    try:
        return path.read_text().strip() or "a process"
    except OSError:
        return "a process"


def _take(path: Path) -> int | None:
    """Return the open, locked file, or None where another process holds it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.stat().st_ino != os.fstat(handle).st_ino:
            raise FileNotFoundError(path)  # the holder has just removed this file: its successor is the lock
    except (BlockingIOError, FileNotFoundError):
        os.close(handle)
        return None
    os.ftruncate(handle, 0)
    os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    return handle
