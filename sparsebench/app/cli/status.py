"""``sparsebench status``: show the cells of the grids below a folder and their progress, without heavy imports."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from sparsebench.app.cli.arguments import Parser
from sparsebench.app.errors import stop
from sparsebench.app.grid.status import Standing, clock, counts, is_launched, standings, time_left
from sparsebench.results.schema import describe
from sparsebench.runs.folder import STATES

if TYPE_CHECKING:
    from rich.console import RenderableType

_COLOURS: dict[str, str] = dict(zip(STATES, ("cyan", "red", "magenta", "yellow", "dim", "green"), strict=True))
_ROWS = 40


def main(arguments: list[str]) -> None:
    """Show the grid, once or until it is finished."""
    given = parser().parse_args(arguments)
    root: Path = given.folder
    if not root.is_dir():
        stop(f"{root} is not a folder: give the folder of the runs, by default outputs")
    if given.every <= 0:
        stop(f"--every {given.every:g} is impossible: give seconds above 0")
    if given.json:
        found = standings(root)
        print(json.dumps({"counts": counts(found), "left": time_left(found), "cells": [asdict(s) for s in found]}))
    elif given.watch:
        _watch(root, given.every)
    else:
        _show(root)


def parser() -> Parser:
    """Return the parser of the arguments."""
    parser = Parser("status", "Show the runs below a folder: done, running, failed, interrupted, and still to come.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("outputs"), help="folder of the runs (outputs)")
    parser.add_argument("--watch", action="store_true", help="update continuously until no run is active, or Ctrl-C")
    parser.add_argument("--every", type=float, default=1.0, metavar="SECONDS", help="seconds between two updates (1)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def _show(root: Path) -> None:
    found = standings(root)
    if not found:
        stop(f"{root} holds no run: sparsebench train ... writes runs to outputs")
    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(_table(found, rows=None))
        return
    print(_headline(found))
    for standing in found:
        print("  ".join(part for part in _cells(standing) if part))


def _watch(root: Path, every: float) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console()
    found = standings(root)
    try:
        with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
            while True:
                live.update(_table(found, rows=max(4, min(_ROWS, console.height - 5))), refresh=True)
                if not any(standing.state == "running" for standing in found) and not is_launched(root):
                    break
                time.sleep(every)
                found = standings(root)
    except KeyboardInterrupt:
        return


def _headline(found: list[Standing]) -> str:
    said = ", ".join(f"{number} {state}" for state, number in counts(found).items())
    left = time_left(found)
    return f"{len(found)} runs: {said}" + (f"; about {clock(left)} left" if left is not None else "")


def _table(found: list[Standing], *, rows: int | None) -> RenderableType:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    shown = found[:rows]
    table = Table(box=box.SIMPLE_HEAD, title=_headline(found), title_justify="left", pad_edge=False)
    table.add_column("state")
    table.add_column("run", overflow="fold")
    for column in ("progress", "accuracy", "time", "left"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for standing in shown:
        state, *rest = map(escape, _cells(standing))
        table.add_row(f"[{_COLOURS[standing.state]}]{state}[/]", *rest)
    if len(found) > len(shown):
        table.caption = f"and {len(found) - len(shown)} more"
    return table


def _cells(standing: Standing) -> tuple[str, ...]:
    percent = "" if standing.progress is None else f"{100 * standing.progress:.0f} %"
    return (
        standing.state,
        f"{standing.name.rpartition('--')[0] or standing.name} {standing.settings}".strip(),
        f"{standing.stage} {percent}".strip() if standing.state != "done" else "",
        "" if standing.accuracy is None else describe("test_accuracy").text(standing.accuracy),
        "" if standing.seconds is None else clock(standing.seconds),
        "" if standing.left is None else clock(standing.left),
        " ".join(standing.words.split()),
    )
