"""Wrong input: one clear line, exit code 2."""

from __future__ import annotations

import os
import sys
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
