"""Lock files based on the system's ``flock``, released with their last holder, however it dies.

A file left behind, for example by ``kill -9``, is not a lock. It contains process id and host for people to read. On a
file system without locks the file itself is the lock: only one process can create it, and it is valid while that
process lives. Only the standard library is used, so that every layer may lock, and ``sparsebench status`` starts
quickly.
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

_PROBES, _PAUSE = 4, 0.02  # a check takes the lock for an instant, and must not be mistaken for a holder
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
_FORGOTTEN = 180.0  # seconds after which another machine's file counts as left behind; a living process has heartbeats
_warned = False


class NoLocks(OSError):
    """Raised when the file system has no locks."""


@dataclass(frozen=True)
class Held:
    """A lock held by this process.

    Attributes:
        path: the file.
        handle: the open file; a child process that inherits it holds the lock as well.
        first: whether this process was the first to take the lock.
    """

    path: Path
    handle: int
    first: bool

    def release(self) -> None:
        """Release the lock; the last holder removes the file."""
        try:
            if _lock_or_else(self.handle, fcntl.LOCK_EX, without=True):
                with contextlib.suppress(OSError):  # a file left behind is not a lock
                    self.path.unlink(missing_ok=True)  # while locked: waiting processes see that the file was replaced
        finally:
            os.close(self.handle)


def take(path: Path, *, join: bool = False) -> Held | None:
    """Take a lock, or return None if another process holds it.

    Args:
        path: the file; created if needed.
        join: whether to share it with others that join; without locks, no process can join.
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
            taken = False  # the holder has just removed this file: the new file is the lock
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
    except OSError:  # not accessible: heartbeats are used instead
        return False
    try:
        return not _lock(handle, fcntl.LOCK_EX)
    except NoLocks:
        return _lives(path)
    except OSError:  # a network disk locks only writable files
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
    """Open for writing if possible, since several network disks lock only writable files."""
    try:
        return os.open(path, os.O_RDWR)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        return os.open(path, os.O_RDONLY)


def _lock(handle: int, kind: int) -> bool:
    """Lock, or return False if another process holds the lock.

    Raises:
        NoLocks: the file system has no locks.
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
    """Take a lock by creating its file, or by taking over the file of a dead process."""
    _warn(path)
    if path.exists() and (_lives(path) or not _is_mine_to_take(path)):
        return None
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    beside.write_bytes(_signature())
    os.replace(beside, path)
    time.sleep(_PAUSE)  # if several find the file of a dead process, the last to write has the lock
    with contextlib.suppress(OSError):
        if path.read_bytes() == _signature():
            return Held(path, os.open(path, os.O_RDWR), first=True)
    return None


def _is_mine_to_take(path: Path) -> bool:
    """Return False for the file of another machine that may still be active."""
    found = _read(path)
    if found is None or found[1] == socket.gethostname():
        return True
    with contextlib.suppress(OSError):
        return time.time() - path.stat().st_mtime > _FORGOTTEN
    return False


def _lives(path: Path) -> bool:
    """Return True if the process on this machine that created a file is alive."""
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
            f"sparsebench: the disk of {path.parent} has no locks: lock files and heartbeats are used instead; "
            "do not start two launches of one run at the same moment",
            file=sys.stderr,
            flush=True,
        )
