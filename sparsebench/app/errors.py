"""Report wrong input with one clear line and exit code 2."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from sparsebench.runs.folder import RunFolder

USER_ERRORS = (ValueError, OSError, FloatingPointError, ImportError)
"""Errors whose one-line message is enough; all others name the file with their traceback."""

USER = 2
"""Exit code if the input is wrong, or the operating system refuses a request."""

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


_FILE = "__traceback_file__"
"""Attribute of an error: the file with its traceback."""


def record_failure(folder: RunFolder, error: BaseException) -> None:
    """Mark a run as failed, with the traceback; after an unexpected error its folder is kept."""
    trace = "".join(traceback.format_exception(error))
    folder.fail(f"{type(error).__name__}: {explain(error)}", trace, keep=not isinstance(error, USER_ERRORS))
    setattr(error, _FILE, folder.failure_file)


def where_traceback(error: BaseException) -> str:
    """Return where the traceback of an unexpected error can be read."""
    file = getattr(error, _FILE, None)
    return f"its traceback is in {file}" if file is not None else "SPARSEBENCH_TRACEBACK=1 shows its traceback"


def stop(message: str, code: int = 2) -> NoReturn:
    """Print one line and exit; ``SPARSEBENCH_TRACEBACK=1`` shows the traceback instead."""
    if os.environ.get("SPARSEBENCH_TRACEBACK") and sys.exc_info()[0]:
        raise
    print(f"sparsebench: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
