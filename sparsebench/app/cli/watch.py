"""Repeat an action whenever a run below a folder changes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from sparsebench.runs.files import ENDINGS
from sparsebench.runs.walk import walk


def watch(root: Path, show: Callable[[], str], *, every: float, rounds: int | None = None) -> None:
    """Call ``show`` now, and again whenever a run has ended, until Ctrl-C; a terminal is cleared first.

    Args:
        root: folder that holds the runs.
        show: writes the output, and returns why it could not, or an empty text. Runs may appear later, so this is not
            an error.
        every: seconds between two checks.
        rounds: number of checks; by default endless.
    """
    seen: object = None
    try:
        while rounds is None or rounds > 0:
            now = state(root)
            if now != seen:
                seen = now
                if sys.stdout.isatty():
                    print("\x1b[H\x1b[2J\x1b[3J", end="")
                said = show()
                if said:
                    print(f"sparsebench: {said}")
                sys.stdout.flush()
            if rounds is not None:
                rounds -= 1
            if rounds != 0:
                time.sleep(every)
    except KeyboardInterrupt:
        return


def state(root: Path) -> dict[str, tuple[int, int]]:
    """Return a fingerprint of the runs: time and size of the files that end a run."""
    found: dict[str, tuple[int, int]] = {}
    for folder, _, names in walk(root):
        for name in set(names).intersection(ENDINGS):
            path = os.path.join(folder, name)
            try:
                about = os.stat(path)
            except FileNotFoundError:  # being replaced at this moment
                continue
            found[path] = (about.st_mtime_ns, about.st_size)
    return found
