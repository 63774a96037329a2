"""Write a table in LaTeX: unchanged, or as papers print it, methods by sparsities."""

from __future__ import annotations

from collections.abc import Sequence

from sparsebench.results.key import Key
from sparsebench.results.names import display, display_kind
from sparsebench.results.render.columns import LEGEND, Grid, number
from sparsebench.results.render.text import footers, one_line
from sparsebench.results.schema import describe
from sparsebench.results.table import Mean, Row, is_dense

SAME = 5e-3
"""A sparsity that results from training is listed under a target that is nearer than this."""
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
}


def latex(grid: Grid, notes: Sequence[str]) -> str:
    """Return the table in LaTeX; it needs the package booktabs."""
    columns = "".join("r" if numeric else "l" for numeric in grid.numeric)
    body = [" & ".join(escape(cell.strip()) for cell in row) + r" \\" for row in grid.body]
    lines = [
        r"% \usepackage{booktabs}",
        *([f"% {grid.common}"] if grid.common else []),
        f"% {LEGEND}",
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

    The best mean of a sparsity is bold, and so is every mean whose interval, mean plus or minus sample standard
    deviation, overlaps the best row's; a single run has no interval, and ties only with an equal number.

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
        "% mean and sample standard deviation; bold: the best of a sparsity, and values within its deviation",
        *(f"% {note}" for note in notes),
    ]
    return "\n".join([*head, *tables]) + "\n"


def escape(text: str) -> str:
    """Escape all characters with a special meaning in LaTeX."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


def _pivot(rows: Sequence[Row], key: Key) -> str:
    levels = _levels(rows)
    lines: dict[str, dict[float, Row]] = {}
    dense = [row for row in rows if is_dense(row)]
    for row in rows:
        if not is_dense(row):
            name = _line(row, rows)
            while _level(row, levels) in lines.get(name, {}):  # the same method, in a configuration of another kind
                name += "*"
            lines.setdefault(name, {})[_level(row, levels)] = row
    best = {level: _bold([line[level] for line in lines.values() if level in line], key) for level in levels}
    where = f"{display('dataset', rows[0].key['dataset'])}, {display('model', rows[0].key['model'])}"
    percent = " & ".join(f"{100 * level:g}" + r"\,\%" for level in levels)
    body = [
        rf"\multicolumn{{{len(levels) + 1}}}{{l}}{{{escape(_line(row, rows))}: {_cell(row, key)}}} \\" for row in dense
    ]
    body += [r"\midrule"] if dense and lines else []
    for name, line in lines.items():
        cells = [
            _cell(line[level], key, bold=line[level] in best[level]) if level in line else "--" for level in levels
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


def _levels(rows: Sequence[Row]) -> list[float]:
    """Return the sparsities of the columns: targets, and emergent values far from all targets."""
    targets = {row.key["sparsity_target"] for row in rows if row.key["sparsity_target"] is not None}
    for row in rows:
        if row.key["sparsity_target"] is None and not is_dense(row) and "sparsity" in row.means:
            found = row.means["sparsity"].value
            if all(abs(found - target) > SAME for target in targets):
                targets.add(round(found, 3))
    if not targets:
        raise ValueError("--pivot needs sparse runs: all of these are dense")
    return sorted(targets)


def _level(row: Row, levels: Sequence[float]) -> float:
    target = row.key["sparsity_target"]
    at = target if target is not None else row.means["sparsity"].value
    return min(levels, key=lambda level: abs(level - at))


def _line(row: Row, rows: Sequence[Row]) -> str:
    """Return the name of a row: its method, and the epochs and settings that distinguish it."""
    parts = [display_kind(row.key["method"], row.key["recipe"])]
    if len({other.key["epochs"] for other in rows}) > 1:
        parts.append(f"{row.key['epochs']:g} epochs")
    return ", ".join([*parts, *(f"{key}={value}" for key, value in row.settings.items() if key != "sparsity")])


def _bold(rows: Sequence[Row], key: Key) -> list[Row]:
    """Return the rows printed in bold as best; none if the number has no better direction."""
    known = [(row, row.means[key.name]) for row in rows if key.name in row.means]
    if not known or key.direction == "none":
        return []
    sign = 1 if key.direction == "higher" else -1
    top = max((average for _, average in known), key=lambda average: sign * average.value)
    return [row for row, average in known if _meet(average, top, key)]


def _meet(one: Mean, other: Mean, key: Key) -> bool:
    half = 0.5 * 10**-key.digits / (100 if key.percent else 1)  # numbers that are printed alike count as equal
    return abs(one.value - other.value) <= max(half, (one.std or 0.0) + (other.std or 0.0))


def _cell(row: Row, key: Key, *, bold: bool = False) -> str:
    value, _, spread = number(row.means.get(key.name), key).partition(" ± ")
    text = rf"\textbf{{{value}}}" if bold else escape(value)
    return text + (rf" {{\scriptsize $\pm$ {spread}}}" if spread else "")
