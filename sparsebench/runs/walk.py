"""Walk over folders, following links, and visit each folder once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def walk(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield ``(folder, names of its folders, names of its files)`` in order, as ``os.walk`` does.

    Links to folders are followed, without endless loops: a folder is visited once, under the first path that leads to
    it. Hidden folders are skipped. A caller may remove names of folders to skip them.
    """
    seen: set[tuple[int, int]] = set()
    for place, folders, names in os.walk(root, followlinks=True):
        try:
            about = os.stat(place)
        except OSError:  # being removed at this moment
            folders.clear()
            continue
        if (about.st_dev, about.st_ino) in seen:
            folders.clear()
            continue
        seen.add((about.st_dev, about.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield place, folders, sorted(names)
