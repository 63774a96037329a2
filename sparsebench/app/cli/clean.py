"""``sparsebench clean``: remove the runs of a folder that failed, were stopped, or never began."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sparsebench.app.cli.arguments import Parser
from sparsebench.app.errors import stop
from sparsebench.runs.activity import Busy
from sparsebench.runs.folder import RunFolder, runs_below
from sparsebench.runs.manifest import Manifest, manifests_below

REMOVED = ("failed", "stopped", "waiting")
"""States of runs that are removed: finished, running and interrupted ones stay."""


def main(arguments: list[str]) -> None:
    """List the runs to remove, request confirmation, and remove them."""
    given = parser().parse_args(arguments)
    root: Path = given.folder
    if not root.is_dir():
        stop(f"{root} is not a folder: give the folder of the runs, by default outputs")
    manifests = list(manifests_below(root))
    runs = removable(root, manifests)
    dead = [manifest for manifest in manifests if manifest.is_alive() is False]
    if not runs:
        print(f"sparsebench: {root} holds no run that failed, was stopped or never began")
        _forget(dead)
        return
    for run, state in runs:
        reason = run.failure() or run.stopped()
        print("  ".join(part for part in (state, os.path.relpath(run, root), reason) if part))
    if not given.yes and not _agreed(len(runs)):
        print("sparsebench: nothing was removed; add --yes to remove these runs")
        return
    _remove([run for run, _ in runs])
    _forget(dead)


def parser() -> Parser:
    """Return the parser of the arguments."""
    parser = Parser(
        "clean", "Remove the runs below a folder that failed, were stopped, or never began, after listing them."
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path("outputs"), help="folder of the runs (outputs)")
    parser.add_argument("--yes", action="store_true", help="remove without asking")
    return parser


def removable(root: Path, manifests: Sequence[Manifest]) -> list[tuple[RunFolder, str]]:
    """Return the runs to remove with their states, except runs that an active launch will still reach."""
    expected = {folder for manifest in manifests if manifest.is_alive() is not False for folder in manifest.folders}
    found = [(run, run.state()) for run in runs_below(root)]
    return [(run, state) for run, state in found if state in REMOVED and Path(os.path.normpath(run)) not in expected]


def _agreed(number: int) -> bool:
    if not sys.stdin.isatty():
        return False
    try:
        return input(f"remove {number} run{'s' if number > 1 else ''}? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _remove(runs: Sequence[RunFolder]) -> None:
    gone = 0
    for run in runs:
        try:
            if run.remove():
                gone += 1
            else:
                print(f"sparsebench: {run} holds other files too: only the files of the run are removed")
        except Busy as busy:
            print(f"sparsebench: {busy}: skipped")
        except OSError as error:
            print(f"sparsebench: {run} cannot be removed ({error}): skipped", file=sys.stderr)
    print(f"sparsebench: {gone} run{'' if gone == 1 else 's'} removed")


def _forget(manifests: Sequence[Manifest]) -> None:
    """Remove the announcements of launches that have ended, since their announced runs will not come."""
    for manifest in manifests:
        manifest.path.unlink(missing_ok=True)
