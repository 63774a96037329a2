"""A short folder for the sockets of ``multiprocessing``, whose paths may have at most about 100 characters."""

from __future__ import annotations

import contextlib
import multiprocessing.util
import os
import tempfile
from pathlib import Path

_LONGEST = 60  # length of the folder: names in it take up to 40, and a socket's path is cut at 108, or 104 on macOS
_SHORT = ("/tmp", "/dev/shm", "/var/tmp")


def shorten_socket_folder() -> None:
    """Keep sockets of this process and its children in a short folder if ``TMPDIR`` is too long for them.

    Workers of a pool and workers of data loaders communicate through such sockets. Other temporary files stay in
    ``TMPDIR``.
    """
    if len(os.fsencode(tempfile.gettempdir())) <= _LONGEST:
        return
    before = tempfile.tempdir
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    for folder in (*_SHORT, runtime):
        if folder and len(folder) <= _LONGEST and Path(folder).is_dir() and os.access(folder, os.W_OK | os.X_OK):
            try:
                tempfile.tempdir = folder
                with contextlib.suppress(OSError):
                    multiprocessing.util.get_temp_dir()  # created now, removed at the end of the process
                    return
            finally:
                tempfile.tempdir = before
