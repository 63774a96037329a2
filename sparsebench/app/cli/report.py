"""``sparsebench report``: tabulate the runs of a folder, with the published value for each row."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sparsebench.app.cli.arguments import Parser
from sparsebench.app.cli.watch import watch
from sparsebench.app.errors import stop
from sparsebench.results.collect import Collected, collect
from sparsebench.results.remarks import left_out, short, version_notes
from sparsebench.results.render.columns import chosen, grid, records, sources
from sparsebench.results.render.latex import latex, pivot
from sparsebench.results.render.text import FORMATS, csv_text, json_text, markdown, terminal
from sparsebench.results.table import Row, tabulate
from sparsebench.runs.atomic import write_atomically
from sparsebench.runs.identity import identity
from sparsebench.runs.source import version_of

FILES = ("html", "parquet")
"""Formats that cannot be printed on a terminal."""


@dataclass(frozen=True)
class Report:
    """The runs of a folder as rows, with remarks, ready to be written.

    Attributes:
        root: the folder.
        found: all runs and unreadable files.
        rows: rows of the table.
        notes: remarks on runs, one line each.
    """

    root: Path
    found: Collected
    rows: list[Row]
    notes: list[str]


def main(arguments: list[str]) -> None:
    """Read, group, compare and write the runs; repeatedly with ``--watch``."""
    given = parser().parse_args(arguments)
    if given.pivot and given.format != "latex":
        stop(f"--pivot is for LaTeX: add --format latex (given: {given.format})")
    if given.columns and given.format == "html":
        stop("--columns has no effect on the page, which shows all columns: choose another --format")
    if given.median and (given.pivot or given.format in FILES):
        stop("--median is for the table, CSV and JSON: leave it out, or choose another --format")
    if given.every <= 0:
        stop(f"--every {given.every:g} is impossible: give seconds above 0")
    root: Path = given.folder
    if not root.is_dir():
        stop(f"{root} is not a folder: give the folder of the runs, by default outputs")
    if given.watch:
        watch(root, lambda: _produce(given, root), every=given.every)
        return
    said = _produce(given, root)
    if said:
        stop(said)


def read(root: Path, by: Sequence[str] = ()) -> Report:
    """Read the runs below a folder.

    Raises:
        ValueError: no run is finished, or ``by`` names a key that no run has.
    """
    found = collect(root, variant_of=variant)
    if not found.runs:
        raise ValueError(_nothing(root, found))
    rows, remarks = tabulate(found.runs, by)
    return Report(root, found, rows, [*remarks, *version_notes(found.runs), *left_out(root, found)])


def _produce(given: argparse.Namespace, root: Path) -> str:
    """Write the requested output; return why nothing could be written, or an empty text."""
    by = _list(given.by)
    try:
        report = read(root, by)
        if given.plots:
            _draw(report, given.plots)
        if given.format in FILES:
            _write_file(report, given.format, given.output or root / f"report.{given.format}", _list(given.columns))
            return ""
        if given.plots and given.output is None and given.format == "terminal":
            return ""
        text = _render(given, report, by)
    except ValueError as error:
        return str(error)
    if given.output is None:
        sys.stdout.write(text)
    else:
        _write(given.output, text)
    if given.format == "csv":  # a table for programs cannot contain remarks
        _remark(report.notes)
    return ""


def _list(text: str) -> tuple[str, ...]:
    return tuple(key for key in text.split(",") if key)


def variant(config: Mapping[str, Any]) -> str:
    """Return the run's identity, ignoring its seed."""
    return identity({**config, "seed": 0})


def parser() -> Parser:
    """Return the parser of the arguments."""
    parser = Parser(
        "report",
        "Tabulate the finished runs below a folder: mean and standard deviation over seeds, FLOPs, measured speed, and "
        "the published value for each row.",
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path("outputs"), help="folder of the runs (outputs)")
    parser.add_argument(
        "--format",
        choices=(*FORMATS, *FILES),
        default="terminal",
        help="format of the table (terminal); html, a page with charts, and parquet are written to a file",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write to a file (html and parquet: by default report.html, report.parquet in the folder)",
    )
    parser.add_argument(
        "--plots", type=Path, metavar="FOLDER", help="write the charts to this folder, as SVG, PDF and PNG"
    )
    parser.add_argument("--watch", action="store_true", help="repeat whenever a run changes, until Ctrl-C")
    parser.add_argument("--every", type=float, default=2.0, metavar="SECONDS", help="seconds between two updates (2)")
    _add_layout(parser)
    return parser


def _add_layout(parser: Parser) -> None:
    """Add the arguments that choose rows and columns of the table."""
    parser.add_argument(
        "--by",
        default="",
        metavar="KEY[,KEY]",
        help="columns that come first and order the rows: dataset, model, recipe, method, sparsity_target, epochs, "
        "or a configuration key such as optimizer.lr",
    )
    parser.add_argument(
        "--columns",
        default="",
        metavar="KEY[,KEY]",
        help="numbers to show: keys of a result, such as test_accuracy,train_flops_ratio, and published, delta, "
        "protocol (docs/reference/result.md lists them)",
    )
    parser.add_argument(
        "--median", action="store_true", help="median and quartiles of repeated runs instead of mean and deviation"
    )
    parser.add_argument(
        "--pivot", action="store_true", help="with --format latex: methods by sparsities, the best in bold, with ties"
    )


def _render(given: argparse.Namespace, report: Report, by: Sequence[str]) -> str:
    rows, notes, found, root = report.rows, report.notes, report.found, report.root
    columns = _list(given.columns)
    chosen(rows, columns)
    if given.format == "csv":
        return csv_text(records(rows, columns, median=given.median))
    if given.format == "json":
        return json_text(
            records(rows, columns, median=given.median),
            notes=notes,
            unfinished=[short(folder, root) for folder, _ in found.unfinished],
            skipped=[short(path, root) for path, _ in found.skipped],
        )
    if given.pivot:
        return pivot(rows, columns, notes)
    table = grid(rows, by, columns, printed=given.format == "latex", median=given.median)
    if given.format == "markdown":
        return markdown(table, notes)
    if given.format == "latex":
        return latex(table, notes)
    shown = given.output is None and sys.stdout.isatty()
    colour = shown and "NO_COLOR" not in os.environ
    return terminal(table, notes, width=shutil.get_terminal_size().columns if shown else None, colour=colour)


def _write_file(report: Report, form: str, path: Path, columns: Sequence[str]) -> None:
    """Write the HTML page or the table files that are not shown on a terminal."""
    if form == "parquet":
        from sparsebench.results.render.parquet import parquet

        _write(path, parquet(records(report.rows, columns)))
        _remark(report.notes)
        return
    from sparsebench.results.render.charts import picture
    from sparsebench.results.render.html import page

    shown, damaged = picture(report.rows, base=path.parent)
    ours = version_of("sparsebench") or "(not installed)"
    made = f"Written by sparsebench {ours} on {datetime.now():%Y-%m-%d at %H:%M}."
    title = report.root.resolve().name
    _write(path, page(shown, title=title, notes=[*report.notes, *damaged], sources=sources(report.rows), made=made))


def _draw(report: Report, folder: Path) -> None:
    from sparsebench.results.render.charts import picture
    from sparsebench.results.render.plots import draw

    shown, damaged = picture(report.rows, base=folder)
    for path in draw(shown, folder):
        print(f"sparsebench: wrote {path}")
    _remark([*report.notes, *damaged])


def _remark(notes: Sequence[str]) -> None:
    for note in notes:
        print(f"sparsebench: {note}", file=sys.stderr)


def _nothing(root: Path, found: Collected) -> str:
    rest = left_out(root, found)
    more = f"; {'; '.join(rest)}" if rest else ": sparsebench train ... writes runs to outputs"
    return f"{root} holds no finished run{more}"


def _write(path: Path, content: str | bytes) -> None:
    if path.is_dir():
        stop(f"--output {path} is a folder: name a file")
    write_atomically(path, content)
    print(f"sparsebench: wrote {path}")
