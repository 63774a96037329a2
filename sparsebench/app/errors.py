"""Report wrong input with one clear line and exit code 2."""

from __future__ import annotations

import errno
import os
import sys
from typing import NoReturn

USER_ERRORS = (ValueError, OSError, FloatingPointError, ImportError)
"""Errors that are reported in one line; all others keep their traceback."""

STOPPED = 3
"""Exit code of a run in a separate process that was asked to stop."""


_ADVICE = {
    errno.ENOSPC: "the disk is full: make room and repeat the command to continue",
    errno.EDQUOT: "the disk quota is used up: make room and repeat the command to continue",
    errno.EROFS: "the disk is mounted read-only: choose another output_root",
    errno.EACCES: "this user may not read or write it: choose another folder, or change its permissions",
    errno.EPERM: "this user may not change it: choose another folder, or change its permissions",
    errno.ENAMETOOLONG: "a file name is too long: choose a shorter name, output_root or run_dir",
    errno.EFBIG: "the file is larger than the system allows: see ulimit -f",
    errno.EMFILE: "too many files are open: see ulimit -n",
    errno.ENFILE: "too many files are open on this machine",
    errno.ENOMEM: "memory is used up: choose a smaller dataset.batch_size or fewer workers",
    errno.EIO: "the disk does not respond: see the system's log",
    errno.ESTALE: "the network disk has lost the file: repeat the command",
}
"""Number of a system error -> meaning and remedy."""


def explain(error: BaseException) -> str:
    """Return a user error in one line; system errors include the file and a remedy."""
    if not isinstance(error, OSError) or error.errno is None:
        return f"{error}" or type(error).__name__
    named = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    where = f"{_short(named[-1])}: " if named else ""
    said = (error.strerror or type(error).__name__).lower()
    advice = _ADVICE.get(error.errno, "")
    return f"{where}{said}" + (f"; {advice}" if advice else "")


def _short(path: str) -> str:
    return path if len(path) <= 200 else f"{path[:100]}...{path[-60:]}"


def stop(message: str, code: int = 2) -> NoReturn:
    """Print one line and exit; ``SPARSEBENCH_TRACEBACK=1`` shows the traceback."""
    if os.environ.get("SPARSEBENCH_TRACEBACK") and sys.exc_info()[0]:
        raise
    print(f"sparsebench: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
