"""``sparsebench compare``: compare two runs by configuration, numbers, and the overlap of their masks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sparsebench.app.cli.arguments import Parser
from sparsebench.app.cli.report import variant
from sparsebench.app.errors import stop
from sparsebench.results.collect import Finished, collect
from sparsebench.results.difference import Overlap, config_changes, mask_overlaps, number_changes, total_overlap
from sparsebench.results.remarks import left_out, version_notes
from sparsebench.results.schema import describe
from sparsebench.runs.files import CONFIG
from sparsebench.runs.folder import RunFolder


def main(arguments: list[str]) -> None:
    """Read both runs and print their differences."""
    given = parser().parse_args(arguments)
    runs = (_read(given.first), _read(given.second))
    found = compare(*runs)
    if given.json:
        print(json.dumps(found | {"masks": [asdict(overlap) for overlap in found["masks"]]}, indent=1, default=str))
    else:
        _show(runs, found)


def parser() -> Parser:
    """Return the parser of the arguments."""
    parser = Parser(
        "compare",
        "Show how two finished runs differ: configuration, numbers, and the overlap of their masks layer by layer "
        "(Jaccard index: active in both, over active in either).",
    )
    parser.add_argument("first", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("second", type=Path, metavar="RUN", help="folder of another run")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def compare(first: Finished, second: Finished) -> dict[str, Any]:
    """Return ``config``, ``numbers``, ``masks``, ``overlap`` over all layers, and ``notes`` on missing parts."""
    notes = version_notes([first, second])
    notes += [f"{run.folder}: no readable {CONFIG}" for run in (first, second) if not run.config]
    both_configs = bool(first.config) and bool(second.config)
    masks = [found for run in (first, second) if (found := _masks(run.folder, notes)) is not None]
    known = len(masks) == 2
    return {
        "runs": [str(first.folder), str(second.folder)],
        "config": config_changes(first.config, second.config) if both_configs else {},
        "numbers": number_changes(first.result, second.result),
        "masks": mask_overlaps(masks[0], masks[1]) if known else [],
        "overlap": total_overlap(masks[0], masks[1]) if known else None,
        "notes": notes,
    }


def _read(folder: Path) -> Finished:
    """Return the one run in a folder or below it."""
    if not folder.is_dir():
        stop(f"{folder} is not a folder: give the folder of a run, such as outputs/runs/...")
    found = collect(folder, variant_of=variant)
    if len(found.runs) > 1:
        stop(f"{folder} holds {len(found.runs)} runs: give the folder of one run")
    if not found.runs:
        rest = "; ".join(left_out(folder, found)) or "no result in it"
        stop(f"{folder} holds no finished run: {rest}")
    return found.runs[0]


def _masks(folder: Path, notes: list[str]) -> Mapping[str, Any] | None:
    path = RunFolder(folder).masks
    if not path.exists():
        notes.append(f"{path} is missing: masks are not compared")
        return None
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds of errors for a damaged file
        notes.append(f"{path} is damaged ({type(error).__name__}): masks are not compared")
        return None


def _show(runs: tuple[Finished, Finished], found: Mapping[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from sparsebench.results.render.console import console, heading

    screen = console()
    for letter, run in zip("AB", runs, strict=True):
        screen.print(f"[bold]{letter}[/]  {escape(str(run.folder))}", soft_wrap=True)
    tables = {
        "Configuration": _table(["key", "A", "B"], [[k, _text(a), _text(b)] for k, (a, b) in found["config"].items()]),
        "Numbers": _table(["", "A", "B", "B - A"], [_row(key, *pair) for key, pair in found["numbers"].items()]),
        "Masks": _table(["layer", "density A", "density B", "Jaccard", "by chance"], _layers(found)),
    }
    for name, table in tables.items():
        if isinstance(table, Table) and table.row_count:
            screen.print()
            screen.print(heading(name))
            screen.print(table)
        elif name == "Configuration" and all(run.config for run in runs):
            screen.print("\nThe configurations are equal.")
    for note in found["notes"]:
        screen.print(f"\n{escape(note)}", soft_wrap=True)


def _table(headers: list[str], rows: list[list[str]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for place, header in enumerate(headers):
        table.add_column(header, justify="left" if place == 0 or headers[0] == "key" else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _row(key: str, first: float | None, second: float | None) -> list[str]:
    change = "-" if first is None or second is None else f"{second - first:+.6g}"
    return [describe(key).name_for_people, _text(first), _text(second), change]


def _layers(found: Mapping[str, Any]) -> list[list[str]]:
    rows = [_layer(overlap) for overlap in found["masks"]]
    return [*rows, ["all layers", "", "", _share(found["overlap"]), ""]] if rows else []


def _layer(overlap: Overlap) -> list[str]:
    jaccard = "shapes differ" if overlap.jaccard is None else _share(overlap.jaccard)
    return [overlap.layer, _share(overlap.first), _share(overlap.second), jaccard, _share(overlap.chance)]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _text(value: Any) -> str:
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
