"""The configuration tree: its location and its options, read as text without importing Hydra."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def conf_dir() -> Path:
    """Return the folder of the Hydra tree: inside an installed package, or next to it in a checkout."""
    inside = Path(__file__).resolve().parents[2] / "conf"
    return inside if inside.is_dir() else Path(__file__).resolve().parents[3] / "conf"


def groups(folders: list[Path] | None = None) -> list[str]:
    """Return the names of the configuration groups."""
    found = {d.name for folder in folders or [conf_dir()] for d in folder.iterdir() if d.is_dir()}
    return sorted(found - {"hydra"})


def options(group: str, folders: list[Path] | None = None) -> dict[str, str]:
    """Return the options of a group, each with the comment on its first line."""
    found: dict[str, str] = {}
    for folder in folders or [conf_dir()]:
        for path in sorted((folder / group).rglob("*.yaml")):
            comments = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# ")]
            said = [line[2:] for line in comments if not line.startswith("# @")]
            found[path.relative_to(folder / group).with_suffix("").as_posix()] = said[0] if said else ""
    return found


def search_path(arguments: list[str]) -> list[Path]:
    """Return the configuration folders named on a command line, ours first."""
    folders = [conf_dir()]
    for position, argument in enumerate(arguments):
        if argument in ("--config-dir", "-cd") and position + 1 < len(arguments):
            folders.append(Path(arguments[position + 1]))
        elif argument.startswith("--config-dir="):
            folders.append(Path(argument.partition("=")[2]))
    return folders


def make_importable(folders: list[Path]) -> None:
    """Make modules in these folders importable, in this process and all processes that it starts.

    They come first, like the folder of a script; ``PYTHONPATH`` passes them to ranks, pools and clusters.
    """
    for folder in [str(folder.resolve()) for folder in reversed(folders) if folder.is_dir()]:
        inherited = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part and part != folder]
        os.environ["PYTHONPATH"] = os.pathsep.join([folder, *inherited])
        sys.path[:] = [folder, *(part for part in sys.path if part != folder)]
