"""Convert rows to a grid of text: the columns of a table and the format of each number."""

from __future__ import annotations

import difflib
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sparsebench.results.key import Key
from sparsebench.results.names import display
from sparsebench.results.published import citation, verification
from sparsebench.results.schema import describe, shown_in
from sparsebench.results.significance import marked, values_of
from sparsebench.results.table import GROUP, Mean, Row, value_of

_SIGNS = {"second hand": " †", "reproduced here": " ✓"}
_SPREAD = "mean ± sample standard deviation over n seeds"
_QUARTILES = "median [first, third quartile] over n seeds"
_OBVIOUS = ("test_accuracy", "images_per_second", "seconds")
LEGEND = "; ".join(
    [
        _SPREAD,
        "sparsity: target",
        *(
            f"{key.heading.replace(chr(10), ' ')}: {key.meaning}"
            for key in shown_in("table")
            if key.name not in _OBVIOUS
        ),
        "published: † second hand, ✓ reproduced with this program at its full protocol",
        "Δ: ours minus published, in points",
    ]
)
"""Explanations of the headings of a table."""


@dataclass
class Grid:
    """A table of text cells with headings.

    Attributes:
        headers: one heading per column, with an optional line break for narrow columns.
        numeric: which columns are aligned to the right.
        body: rows of cells.
        common: names shared by all rows, which need no column.
        sources: sources of the published numbers.
        results: columns of names, accuracy and published values.
        costs: columns of names, FLOPs and speed.
        marks: (row, column) of the numbers that are best, or not distinguishable from the best.
        legend: explanations of headings and numbers.
    """

    headers: list[str] = field(default_factory=list)
    numeric: list[bool] = field(default_factory=list)
    body: list[list[str]] = field(default_factory=list)
    common: str = ""
    sources: list[str] = field(default_factory=list)
    results: list[int] = field(default_factory=list)
    costs: list[int] = field(default_factory=list)
    marks: set[tuple[int, int]] = field(default_factory=set)
    legend: str = LEGEND

    def add(
        self, header: str, cells: Sequence[str], *, numeric: bool = True, results: bool = True, costs: bool = True
    ) -> None:
        """Add a column; if the table must be split, it belongs to one part or to both."""
        self.results += [len(self.headers)] if results else []
        self.costs += [len(self.headers)] if costs else []
        self.headers.append(header)
        self.numeric.append(numeric)
        self.body = self.body or [[] for _ in cells]
        for row, cell in zip(self.body, cells, strict=True):
            row.append(cell)


BESIDE = ("published", "delta", "protocol")
"""Columns in addition to the numbers of a run."""


def chosen(rows: Sequence[Row], columns: Sequence[str]) -> tuple[list[Key], list[str]]:
    """Return the numbers to show, and which of ``BESIDE``; by default the schema's numbers and all of ``BESIDE``.

    Raises:
        ValueError: no run has a number of that name.
    """
    if not columns:
        return shown_in("table"), list(BESIDE)
    known = dict.fromkeys([key.name for key in shown_in("table")] + [name for row in rows for name in row.means])
    for name in columns:
        if name not in known and name not in BESIDE:
            near = difflib.get_close_matches(name, [*known, *BESIDE], n=1)
            advice = f"did you mean {near[0]}?" if near else f"there are {', '.join([*known, *BESIDE])}"
            raise ValueError(f"--columns {name}: no run has a number of that name; {advice}")
    return [describe(name) for name in columns if name in known], [name for name in columns if name in BESIDE]


def grid(
    rows: Sequence[Row],
    by: Sequence[str] = (),
    columns: Sequence[str] = (),
    *,
    printed: bool = False,
    median: bool = False,
) -> Grid:
    """Arrange rows as a readable grid; a name shared by all rows moves to the line above the table.

    Args:
        rows: of the table.
        by: keys that come first.
        columns: numbers to show, those of the schema by default.
        printed: write methods, networks and data sets as papers do.
        median: show median and quartiles of repeated runs, not mean and deviation.
    """
    numbers, beside = chosen(rows, columns)
    table, common = Grid(), []
    keys = [*by, *(key for key in GROUP if key not in by)]
    for key in keys:
        values = [_name(value_of(row, key)) for row in rows]
        values = [display(key, value) for value in values] if printed else values
        movable = key in ("dataset", "model", "recipe", "epochs") and key not in by
        if movable and len(set(values)) == 1:
            common.append(f"{describe(key).heading} {values[0]}")
        else:
            table.add(describe(key).heading, values, numeric=key in ("sparsity_target", "epochs") or key not in GROUP)
    settings = [_settings(row, by) for row in rows]
    if any(settings):
        table.add("settings", [text or "-" for text in settings], numeric=False)
    table.add("n", [str(len(row.runs)) for row in rows])
    for key in numbers:
        cells = aligned([quartiles(row, key) if median else number(row.means.get(key.name), key) for row in rows])
        result = key.name in ("test_accuracy", "sparsity") or bool(columns)
        table.marks |= {(place, len(table.headers)) for place in marked(rows, key)}
        table.add(key.heading, cells, results=result, costs=not result)
    if "published" in beside:
        table.add("published", aligned([_published(row) for row in rows]), costs=False)
    if "delta" in beside:
        table.add("Δ", ["-" if row.delta is None else f"{row.delta:+.2f}" for row in rows], costs=False)
    if "protocol" in beside:
        protocols = [row.published.protocol if row.published else "-" for row in rows]
        table.add("protocol", protocols, numeric=False, costs=False)
    table.legend = LEGEND.replace(_SPREAD, _QUARTILES) if median else LEGEND
    table.common = ", ".join(common)
    table.sources = sources(rows) if beside else []
    return table


def records(rows: Sequence[Row], columns: Sequence[str] = (), *, median: bool = False) -> list[dict[str, Any]]:
    """Return rows with every name and the chosen numbers in full precision, for CSV and JSON.

    With ``median``, also median, first and third quartile of each number, under ``_median``, ``_q1`` and ``_q3``.
    """
    numbers, beside = chosen(rows, columns)
    found: list[dict[str, Any]] = []
    for row in rows:
        record: dict[str, Any] = {key: row.key[key] for key in GROUP}
        record |= {"settings": _settings(row, ()), "n": len(row.runs), "seeds": row.seeds}
        for key in numbers:
            average = row.means.get(key.name)
            record[key.name] = average.value if average else None
            record[f"{key.name}_std"] = average.std if average else None
            if median:
                values = list(values_of(row, key.name).values())
                cuts = statistics.quantiles(values, method="inclusive") if len(values) > 1 else [None, *values, None]
                ends = zip(("q1", "median", "q3"), cuts if values else (None,) * 3, strict=True)
                record |= {f"{key.name}_{end}": value for end, value in ends}
        entry = row.published.published if row.published else None
        published = {
            "published": entry.value if entry else None,
            "published_std": entry.std if entry else None,
            "published_id": entry.id if entry else None,
            "published_tier": verification(entry) if entry else None,
            "published_paper": entry.paper if entry else None,
            "delta": row.delta,
            "protocol": row.published.protocol if row.published else None,
        }
        kept = tuple(beside)
        found.append(record | {key: value for key, value in published.items() if key.startswith(kept)})
    return found


def sources(rows: Sequence[Row]) -> list[str]:
    """Return one line per published source: the paper and the tables used."""
    tables: dict[str, list[str]] = {}
    for row in rows:
        if row.published:
            entry = row.published.published
            place = entry.table if entry.evidence == "read" else f"{entry.table}, quoted second-hand"
            tables.setdefault(entry.paper, [])
            if place not in tables[entry.paper]:
                tables[entry.paper].append(place)
    return [f"{paper}: {citation(paper)} ({'; '.join(places)})" for paper, places in tables.items()]


def aligned(cells: Sequence[str]) -> list[str]:
    """Pad cells with ``±`` on the right to equal width, so that decimal points align."""
    width = max((len(cell.partition(" ± ")[2]) for cell in cells), default=0)
    if not width:
        return list(cells)
    return [c if c == "-" else c + " " * (width + 3 - len("".join(c.partition(" ± ")[1:]))) for c in cells]


def number(average: Mean | None, key: Key) -> str:
    """Format a mean with its deviation in the digits of its key."""
    factor, digits = (100 if key.percent else 1), key.digits
    if average is None or not math.isfinite(average.value):
        return "-"
    text = f"{factor * average.value:.{digits}f}"
    if average.std is None:
        return text
    spread = f"{factor * average.std:.{digits}f}"
    # a deviation that rounds to zero is shown only for accuracies
    return text if float(spread) == 0 and factor == 1 else f"{text} ± {spread}"


def quartiles(row: Row, key: Key) -> str:
    """Format a median with the first and third quartile, or the number of a single run."""
    values = [value for value in values_of(row, key.name).values() if math.isfinite(value)]
    if len(values) < 2:
        return number(row.means.get(key.name), key)
    factor = 100 if key.percent else 1
    low, middle, high = (
        f"{factor * value:.{key.digits}f}" for value in statistics.quantiles(values, method="inclusive")
    )
    return middle if low == high and factor == 1 else f"{middle} [{low}, {high}]"


def _published(row: Row) -> str:
    if row.published is None:
        return "-"
    entry = row.published.published
    spread = "" if entry.std is None else f" ± {entry.std:.2f}"
    sign = _SIGNS.get(verification(entry), "")
    return f"{entry.value:.2f}{spread}{sign}"


def _settings(row: Row, by: Sequence[str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in row.settings.items() if key not in by)


def _name(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)
