"""Write a table in LaTeX: unchanged, or as papers print it, methods by sparsities."""

from __future__ import annotations

from collections.abc import Sequence

from sparsebench.results.key import Key
from sparsebench.results.names import display, display_kind
from sparsebench.results.render.columns import Grid
from sparsebench.results.render.numbers import number
from sparsebench.results.render.text import footers, one_line
from sparsebench.results.schema import describe
from sparsebench.results.significance import MEANING, level_of, levels_of, marked
from sparsebench.results.table import Row, is_dense

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "Δ": r"$\Delta$",
    "†": r"$\dagger$",
    "✓": r"$\surd$",
}


def latex(grid: Grid, notes: Sequence[str]) -> str:
    """Return the table in LaTeX; it needs the package booktabs."""
    columns = "".join("r" if numeric else "l" for numeric in grid.numeric)
    body = [
        " & ".join(_bold(escape(cell.strip()), (place, column) in grid.marks) for column, cell in enumerate(row))
        + r" \\"
        for place, row in enumerate(grid.body)
    ]
    lines = [
        r"% \usepackage{booktabs}",
        *([f"% {grid.common}"] if grid.common else []),
        f"% {grid.legend}",
        *([f"% bold: {MEANING}"] if grid.marks else []),
        *(f"% {line}" for line in footers(grid, notes)),
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(map(escape, one_line(grid))) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def pivot(rows: Sequence[Row], columns: Sequence[str] = (), notes: Sequence[str] = ()) -> str:
    """Return one table per number, network and data set: methods down, sparsities across; it needs booktabs.

    The best mean of a sparsity is bold, with every mean that is not distinguishable from it; a single run is never
    bold.

    Args:
        rows: rows of the report.
        columns: numbers to show; by default the test accuracy.
        notes: remarks, written as comments.

    Raises:
        ValueError: no row has a sparsity.
    """
    keys = [describe(name) for name in columns or ("test_accuracy",)]
    places = list(dict.fromkeys((row.key["dataset"], row.key["model"]) for row in rows))
    tables = [
        _pivot([row for row in rows if (row.key["dataset"], row.key["model"]) == place], key)
        for place in places
        for key in keys
    ]
    head = [
        r"% \usepackage{booktabs}",
        f"% mean and sample standard deviation; bold: {MEANING}",
        *(f"% {note}" for note in notes),
    ]
    return "\n".join([*head, *tables]) + "\n"


def escape(text: str) -> str:
    """Escape all characters with a special meaning in LaTeX."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


def _pivot(rows: Sequence[Row], key: Key) -> str:
    levels = levels_of(rows)
    if not levels:
        raise ValueError("--pivot needs sparse runs: all of these are dense")
    lines: dict[str, dict[float, Row]] = {}
    dense = [row for row in rows if is_dense(row)]
    for row in rows:
        if not is_dense(row):
            name = _line(row, rows)
            while level_of(row, levels) in lines.get(name, {}):  # the same method in another configuration
                name += "*"
            lines.setdefault(name, {})[level_of(row, levels)] = row
    best = [rows[place] for place in marked(rows, key)]
    where = f"{display('dataset', rows[0].key['dataset'])}, {display('model', rows[0].key['model'])}"
    percent = " & ".join(f"{100 * level:g}" + r"\,\%" for level in levels)
    body = [
        rf"\multicolumn{{{len(levels) + 1}}}{{l}}{{{escape(_line(row, rows))}: {_cell(row, key)}}} \\" for row in dense
    ]
    body += [r"\midrule"] if dense and lines else []
    for name, line in lines.items():
        cells = [
            _cell(line[level], key, bold=any(line[level] is row for row in best)) if level in line else "--"
            for level in levels
        ]
        body.append(" & ".join([escape(name), *cells]) + r" \\")
    return "\n".join(
        [
            f"% {where}: {key.axis}",
            rf"\begin{{tabular}}{{l{'r' * len(levels)}}}",
            r"\toprule",
            f"{escape(where)} & {percent}" + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


def _line(row: Row, rows: Sequence[Row]) -> str:
    """Return the name of a row: its method, and the epochs and settings that distinguish it."""
    parts = [display_kind(row.key["method"], row.key["recipe"])]
    if len({other.key["epochs"] for other in rows}) > 1:
        parts.append(f"{row.key['epochs']:g} epochs")
    return ", ".join([*parts, *(f"{key}={value}" for key, value in row.settings.items() if key != "sparsity")])


def _bold(text: str, marked: bool) -> str:
    value, spread, rest = text.partition(r" $\pm$ ")
    return rf"\textbf{{{value}}}{spread}{rest}" if marked else text


def _cell(row: Row, key: Key, *, bold: bool = False) -> str:
    value, _, spread = number(row.means.get(key.name), key).partition(" ± ")
    text = rf"\textbf{{{value}}}" if bold else escape(value)
    return text + (rf" {{\scriptsize $\pm$ {spread}}}" if spread else "")
