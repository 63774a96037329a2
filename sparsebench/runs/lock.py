"""Lock files based on the system's ``flock``, released with their last holder, however it dies.

A file left behind, by a ``kill -9`` for example, is no lock. Process id and host stand in it for people. On a file
system that has no locks the file itself is the lock: it is made by one process alone, and counts for as long as that
process lives. Here is the standard library alone: every floor may lock, and ``sparsebench status`` answers at once.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

_PROBES, _PAUSE = 4, 0.02  # a look takes the lock for an instant, which must not pass for a holder
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
_FORGOTTEN = 180.0  # seconds after which a file of another machine counts as left behind; heartbeats tell of the living
_warned = False


class NoLocks(OSError):
    """The file system has no locks."""


@dataclass(frozen=True)
class Held:
    """A lock held by this process.

    Attributes:
        path: the file.
        handle: the open file; a child process that inherits it holds the lock as well.
        first: nobody else holds it.
    """

    path: Path
    handle: int
    first: bool

    def release(self) -> None:
        """Release the lock; the last holder removes the file."""
        try:
            if _lock_or_else(self.handle, fcntl.LOCK_EX, without=True):
                with contextlib.suppress(OSError):  # a file left behind is no lock
                    self.path.unlink(
                        missing_ok=True
                    )  # while locked: waiting processes see that the file is another one
        finally:
            os.close(self.handle)


def take(path: Path, *, join: bool = False) -> Held | None:
    """Take a lock, or return None if another process holds it.

    Args:
        path: the file; made if needed.
        join: hold it along with others that join; where there are no locks, nobody joins.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        first = _lock(handle, fcntl.LOCK_EX)
        taken = first or (join and _lock(handle, fcntl.LOCK_SH))
    except NoLocks:
        os.close(handle)
        return _take_without_locks(path)
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
        os.write(handle, _signature())
        if join:
            _lock(handle, fcntl.LOCK_SH)
    return Held(path, handle, first)


def is_taken(path: Path) -> bool:
    """Return True while a living process holds the lock."""
    try:
        handle = _open_to_look(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # not ours to look at: heartbeats tell
        return False
    try:
        return not _lock(handle, fcntl.LOCK_EX)
    except NoLocks:
        return _lives(path)
    except OSError:  # a network disk locks only what may be written
        return False
    finally:
        os.close(handle)


def holder(path: Path) -> str:
    """Return a description of the process that holds a lock."""
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace").strip() or "a process"
    return "a process"


def is_alive(process: int) -> bool:
    """Return True if a process of this machine is alive."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _open_to_look(path: Path) -> int:
    """Open for writing if possible, since several network disks lock nothing else."""
    try:
        return os.open(path, os.O_RDWR)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        return os.open(path, os.O_RDONLY)


def _lock(handle: int, kind: int) -> bool:
    """Lock, or return False where others are in the way.

    Raises:
        NoLocks: the file system has none.
    """
    for _ in range(_PROBES):
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(_PAUSE)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                raise NoLocks(error.errno, "the file system has no locks") from None
            raise
    return False


def _lock_or_else(handle: int, kind: int, *, without: bool) -> bool:
    try:
        return _lock(handle, kind)
    except NoLocks:
        return without


# -- file systems without locks ---------------------------------------------------------------------------------------


def _take_without_locks(path: Path) -> Held | None:
    """Take a lock by making its file; a file that a dead process has left is taken over."""
    _warn(path)
    if path.exists() and (_lives(path) or not _is_mine_to_take(path)):
        return None
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    beside.write_bytes(_signature())
    os.replace(beside, path)
    time.sleep(_PAUSE)  # of several that find the file of a dead process, the last to write has it
    with contextlib.suppress(OSError):
        if path.read_bytes() == _signature():
            return Held(path, os.open(path, os.O_RDWR), first=True)
    return None


def _is_mine_to_take(path: Path) -> bool:
    """Return False for the file of another machine that may still be at work."""
    found = _read(path)
    if found is None or found[1] == socket.gethostname():
        return True
    with contextlib.suppress(OSError):
        return time.time() - path.stat().st_mtime > _FORGOTTEN
    return False


def _lives(path: Path) -> bool:
    """Return True if the process that has made a file, on this machine, is alive."""
    found = _read(path)
    if found is None or found[1] != socket.gethostname():
        return False
    return is_alive(found[0])


def _read(path: Path) -> tuple[int, str] | None:
    match = re.match(r"process (\d+) on (\S+)", holder(path))
    return None if match is None else (int(match[1]), match[2])


def _signature() -> bytes:
    return f"process {os.getpid()} on {socket.gethostname()}\n".encode()


def _warn(path: Path) -> None:
    global _warned
    if not _warned:
        _warned = True
        print(
            f"sparsebench: the disk of {path.parent} has no locks: lock files and heartbeats tell who is at work; "
            "start no two launches of one run at the same moment",
            file=sys.stderr,
            flush=True,
        )
