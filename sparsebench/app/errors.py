"""Wrong input: one clear line, exit code 2."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable
from typing import NoReturn

USER_ERRORS = (ValueError, FileNotFoundError, NotADirectoryError, FloatingPointError, ImportError)
"""Errors that say what is wrong in one line; all others keep their traceback."""

STOPPED = 3
"""Exit code of a run in a process of its own that was asked to stop."""


def stop(message: str, code: int = 2) -> NoReturn:
    """Print one line and exit; ``SPARSEBENCH_TRACEBACK=1`` shows where it came from."""
    if os.environ.get("SPARSEBENCH_TRACEBACK") and sys.exc_info()[0]:
        raise
    print(f"sparsebench: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def near(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the nearest known word, or nothing."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {found[0]!r}?)" if found else ""
