"""Data of the charts: points, curves over training, density per layer, published numbers, links."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sparsebench.results.collect import Finished
from sparsebench.results.curves import curves_of, in_order, rounded
from sparsebench.results.names import display_kind
from sparsebench.results.published import Published, citation, find, load_published
from sparsebench.results.render.columns import records
from sparsebench.results.schema import describe, shown_in
from sparsebench.results.significance import marked, ties
from sparsebench.results.table import Row

_CELLS = 60_000
_MOST, _LEAST = 120, 10


def picture(rows: Sequence[Row], *, base: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the data of all plots, ready for JSON, and remarks on unreadable files.

    Curves are thinned to between 10 and 120 points, so that a page with many runs stays small.

    Args:
        rows: rows of the table.
        base: folder to which links to the runs are relative.

    Returns:
        ``rows`` (as in the JSON table, each with its ``runs``, the numbers in which it is ``best``, and the places of
        the rows that its accuracy ``ties`` with), ``published``, ``layers`` (lists of names, to which
        runs refer by number), ``curves`` (metric -> title), ``percent`` (metrics that are shares), ``columns``
        (keys of the table) and ``names`` (kind -> name in papers); and one line per damaged file.
    """
    total = sum(len(row.runs) for row in rows)
    points = max(_LEAST, min(_MOST, _CELLS // max(1, total)))
    layers: dict[tuple[str, ...], int] = {}
    damaged: list[str] = []
    shown: list[dict[str, Any]] = []
    best = {key.name: marked(rows, key) for key in shown_in("table")}
    alike = ties(rows, "test_accuracy")
    for place, (row, record) in enumerate(zip(rows, records(rows), strict=True)):
        entry = row.published.published if row.published else None
        record["published_source"] = source(entry) if entry else None
        record["runs"] = [_run(run, base=base, points=points, layers=layers, damaged=damaged) for run in row.runs]
        record["best"] = [name for name, places in best.items() if place in places]
        record["ties"] = alike[place]
        shown.append(record)
    drawn = dict.fromkeys(metric for record in shown for run in record["runs"] for metric in run["curves"])
    return {
        "rows": shown,
        "published": published_points(rows),
        "layers": [list(names) for names in layers],
        "curves": {name: describe(name).name_for_people for name in in_order(drawn)},
        "percent": [name for name in in_order(drawn) if describe(name).unit == "share"],
        "names": {kind_of(record): label_of(record) for record in shown},
        "columns": [asdict(key) for key in shown_in("table")],
    }, damaged


def published_points(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Return the published numbers at every sparsity for each method, network and data set in the rows."""
    asked = dict.fromkeys(tuple(row.key[key] for key in ("dataset", "model", "recipe", "method")) for row in rows)
    sparsities = sorted({entry.sparsity for entry in load_published() if entry.sparsity is not None})
    found: list[dict[str, Any]] = []
    for dataset, model, recipe, method in asked:
        entries = {
            entry.id: entry
            for sparsity in sparsities
            for entry in find(method=method, model=model, dataset=dataset, recipe=recipe, sparsity=sparsity)
        }
        for entry in entries.values():
            names = {"dataset": dataset, "model": model, "recipe": recipe, "method": method}
            numbers = {key: getattr(entry, key) for key in ("sparsity", "value", "std", "epochs", "train_flops_ratio")}
            found.append({**names, **numbers, "source": source(entry), "protocol": entry.protocol})
    return found


def source(entry: Published) -> str:
    """Return the source of a published number: paper and table."""
    place = entry.table if entry.evidence == "read" else f"{entry.table}, quoted second-hand"
    return f"{citation(entry.paper)} ({place})"


def pareto(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the Pareto-optimal points by cost (first number) and value (second), cheapest first."""
    front: list[tuple[float, float]] = []
    for cost, value in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or value > front[-1][1]:
            front.append((cost, value))
    return front


def decades(sparsity: float) -> float:
    """Return the position of a sparsity on an axis of equal factors of density."""
    return -math.log10(max(1e-6, 1 - sparsity))


def dodged(places: set[float], count: int) -> list[float]:
    """Return the horizontal offset of each of several lines, so that error bars do not overlap."""
    ordered = sorted(places)
    gaps = [after - before for before, after in itertools.pairwise(ordered) if after - before > 0.05]
    step = min(0.02, 0.4 * min(gaps, default=0.3) / max(1, count))
    return [step * (number - (count - 1) / 2) for number in range(count)]


def is_dense(row: Mapping[str, Any]) -> bool:
    """Return True for dense training."""
    return row["method"] == "dense" and row["recipe"] == "single"


def kind_of(row: Mapping[str, Any]) -> str:
    """Return the key by which colours are chosen: the method, or the method within its recipe."""
    plain = row["recipe"] in ("single", row["method"])
    return row["method"] if plain else f"{row['method']}, {row['recipe']}"


def label_of(row: Mapping[str, Any]) -> str:
    """Return the name of a row's kind as papers write it."""
    return display_kind(row["method"], row["recipe"])


def line_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the properties shared by the rows of one line: all but sparsity."""
    return kind_of(row), row["epochs"], row["settings"]


def link(folder: Path, base: Path) -> str:
    """Return a link from a page in ``base`` to a folder, relative if both are on one drive."""
    try:
        return quote(Path(os.path.relpath(folder.resolve(), base.resolve())).as_posix()) + "/"
    except ValueError:
        return folder.resolve().as_uri() + "/"


def _run(
    run: Finished, *, base: Path, points: int, layers: dict[tuple[str, ...], int], damaged: list[str]
) -> dict[str, Any]:
    result = run.result
    densities = result.get("density_per_layer")
    densities = densities if isinstance(densities, Mapping) else {}
    curves, unread = curves_of(run, points)
    damaged += unread
    return {
        "seed": result["seed"],
        "test_accuracy": rounded(result["test_accuracy"], 6),
        "folder": link(run.folder, base),
        "name": run.folder.name,
        "at": curves.pop("at"),
        "curves": curves,
        "layers": layers.setdefault(tuple(densities), len(layers)) if densities else None,
        "densities": [rounded(value) for value in densities.values()],
    }
