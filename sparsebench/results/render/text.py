"""Write a table for a terminal, in Markdown, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from typing import Any

from sparsebench.results.render.columns import Grid
from sparsebench.results.significance import MEANING

FORMATS = ("terminal", "markdown", "latex", "csv", "json")


def terminal(grid: Grid, notes: Sequence[str], *, width: int | None, colour: bool) -> str:
    """Return the table for a terminal, or for a file without line breaks if ``width`` is None.

    A table wider than the terminal is split into two: results, then costs.
    """
    from rich.console import Console
    from rich.text import Text

    screen = Console(
        file=io.StringIO(), width=width or 1000, force_terminal=colour, no_color=not colour, highlight=False
    )
    bound = None if width is None else max(24, width // 4)
    whole = _rich_table(grid, range(len(grid.headers)), bound)
    parts = [whole]
    if width is not None and screen.measure(whole, options=screen.options.update(width=1000)).maximum > width:
        parts = [_rich_table(grid, grid.results, bound), _rich_table(grid, grid.costs, bound)]
    with screen.capture() as captured:
        if grid.common:
            screen.print(Text(grid.common, style="bold"))
        for table in parts:
            screen.print()
            screen.print(table)
        screen.print()
        for line in (_legend(grid, "*"), *footers(grid, notes)):
            screen.print(Text(line), soft_wrap=width is None)
    return "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"


def _rich_table(grid: Grid, columns: Sequence[int], bound: int | None) -> Any:
    """Return a table whose columns of sentences have a bounded width."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column in columns:
        justify, wraps = "right" if grid.numeric[column] else "left", grid.headers[column] in ("settings", "protocol")
        look = {"no_wrap": not wraps, "max_width": bound if wraps else None}
        table.add_column(grid.headers[column], justify=justify, overflow="fold", **look)
    starred = {column for _, column in grid.marks}
    for place, row in enumerate(grid.body):
        cells = [_terminal_cell(row[column], (place, column) in grid.marks, column in starred) for column in columns]
        table.add_row(*(Text(*cell) for cell in cells), style="dim" if "dense" in row else None)
    return table


def _terminal_cell(text: str, marked: bool, starred: bool) -> tuple[str, str]:
    """Return text and style of a cell: bold with a star if marked, with room for the star if others are."""
    return text + (" *" if marked else "  " if starred else ""), "bold" if marked else ""


def _legend(grid: Grid, mark: str) -> str:
    return grid.legend + (f"; {mark}: {MEANING}" if grid.marks else "")


def markdown(grid: Grid, notes: Sequence[str]) -> str:
    """Return the table in Markdown, with columns of equal width so that the source is readable."""
    cells = [[cell.strip().replace("|", r"\|") for cell in row] for row in (one_line(grid), *grid.body)]
    for place, column in grid.marks:
        cells[place + 1][column] = f"**{cells[place + 1][column]}**"
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(grid.headers))]
    lines = []
    for row in cells:
        padded = [
            cell.rjust(width) if numeric else cell.ljust(width)
            for cell, width, numeric in zip(row, widths, grid.numeric, strict=True)
        ]
        lines.append(f"| {' | '.join(padded)} |")
    rule = [("-" * (w - 1) + ":") if n else "-" * w for w, n in zip(widths, grid.numeric, strict=True)]
    lines.insert(1, f"| {' | '.join(rule)} |")
    head = [grid.common[:1].upper() + grid.common[1:] + ":", ""] if grid.common else []
    legend = _legend(grid, "bold")
    foot = ["", legend[:1].upper() + legend[1:] + ".", "", *(f"- {line}" for line in footers(grid, notes))]
    return "\n".join([*head, *lines, *foot]).rstrip() + "\n"


def csv_text(records: Sequence[dict[str, Any]]) -> str:
    """Return records as CSV: numbers in full precision, empty if missing."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    for record in records:
        flat = {key: " ".join(map(str, value)) if isinstance(value, list) else value for key, value in record.items()}
        writer.writerow({key: "" if value is None else value for key, value in flat.items()})
    return text.getvalue()


def json_text(records: Sequence[dict[str, Any]], **more: Any) -> str:
    """Return one JSON document with ``rows`` and further keys; nan and infinity become null."""
    return json.dumps(finite({"rows": list(records), **more}), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def finite(value: Any) -> Any:
    """Replace nan and infinity by None at any depth."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def one_line(grid: Grid) -> list[str]:
    """Return the headers without line breaks."""
    return [header.replace("\n", " ") for header in grid.headers]


def footers(grid: Grid, notes: Sequence[str]) -> list[str]:
    """Return the lines below a table: sources of published numbers, and remarks."""
    return [*(f"published, {line}" for line in grid.sources), *notes]
