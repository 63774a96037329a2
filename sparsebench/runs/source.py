"""Commit and versions of the code that computes a result."""

from __future__ import annotations

import importlib.metadata
import subprocess
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=1)
def commit(root: Path | None = None) -> str | None:
    """Return the commit of this package's own checkout, with ``-dirty`` for changes; None for an installed package.

    Another project's checkout around an installed package does not count.
    """
    root = root or Path(__file__).resolve().parents[2]
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root:
        return None
    head = _git(root, "rev-parse", "--short=12", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", "sparsebench", "conf")
    return None if head is None else head + ("-dirty" if changed else "")


def version_of(package: str) -> str | None:
    """Return the version of an installed package; None if it is not installed, such as this one in a bare checkout."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):  # git is not installed, or hangs
        return None
    return done.stdout.strip() if done.returncode == 0 else None
