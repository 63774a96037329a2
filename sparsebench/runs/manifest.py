"""Manifests that announce the runs of a grid launch, for ``sparsebench status`` and ``clean``."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from sparsebench.runs.atomic import write_atomically
from sparsebench.runs.walk import walk


@dataclass(frozen=True)
class Manifest:
    """The announcement of a launch: its process and its runs.

    Attributes:
        path: the file.
        host: host of the launch.
        pid: process id of the launch.
        folders: folders of the runs -> the overrides that distinguish each.
    """

    path: Path
    host: str
    pid: int
    folders: Mapping[Path, Sequence[str]]

    def is_alive(self) -> bool | None:
        """Return whether the launch is still running, or None if on another machine."""
        if self.host != socket.gethostname():
            return None
        try:
            os.kill(self.pid, 0)
        except PermissionError:
            return True
        except (ProcessLookupError, OverflowError):
            return False
        return True


def write_manifest(place: Path, folders: Mapping[Path, Sequence[str]]) -> Path:
    """Write the runs of a launch; the same grid writes the same file.

    Args:
        place: the folder of the grid.
        folders: folders of the runs -> the overrides that distinguish each.
    """
    name = hashlib.blake2b("\n".join(sorted(map(str, folders))).encode(), digest_size=4).hexdigest()
    cells = [{"folder": os.path.relpath(folder, place), "overrides": [*told]} for folder, told in folders.items()]
    content = {"launched": time.time(), "pid": os.getpid(), "host": socket.gethostname(), "cells": cells}
    path = place / f"grid-{name}.json"
    write_atomically(path, json.dumps(content, indent=1) + "\n")
    return path


def manifests_below(root: Path) -> Iterator[Manifest]:
    """Yield the manifests at or below a folder, ignoring damaged ones."""
    for place, _, names in walk(root):
        for name in names:
            if re.fullmatch(r"grid-[0-9a-f]{8}\.json", name):
                with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
                    yield _read(Path(place) / name)


def _read(path: Path) -> Manifest:
    content = cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))
    folders = {Path(os.path.normpath(path.parent / cell["folder"])): cell["overrides"] for cell in content["cells"]}
    return Manifest(path, str(content["host"]), int(content["pid"]), folders)
