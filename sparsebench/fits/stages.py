"""One process per stage: a lock that the system takes back when its holder dies, however it dies."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from sparsebench.runs.lock import holder, take
from sparsebench.runs.lock import is_taken as is_busy

__all__ = ["holder", "is_busy", "lock"]

_POLL = 0.1
_PATIENCE = 2.0


@contextlib.contextmanager
def lock(path: Path, *, quiet: bool = False) -> Iterator[None]:
    """Hold a lock file for the duration, and wait as long as another living process holds it.

    Args:
        path: the file; removed at the end.
        quiet: wait without a word.
    """
    began, told = time.monotonic(), False
    while (held := take(path)) is None:
        if not quiet and not told and time.monotonic() - began > _PATIENCE:
            print(f"sparsebench: waiting for {path.stem}, at work in {holder(path)}", file=sys.stderr, flush=True)
            told = True
        time.sleep(_POLL)
    try:
        yield
    finally:
        held.release()
