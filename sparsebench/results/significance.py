"""Which rows of a comparison are best, and which cannot be told from the best by their seeds."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from sparsebench.results.key import Key
from sparsebench.results.table import Row, is_dense, is_number

LEVEL = 0.95
"""Of the intervals of differences."""
SAME = 5e-3
"""A sparsity that emerges stands under a target that is nearer than this."""
MEANING = (
    "best of a data set, network and sparsity, or not distinguishable from it: the 95 % interval of the difference "
    "holds zero (paired by seed where seeds are shared, otherwise Welch's); a single run is never marked"
)
"""Explanation of a mark, without the mark."""


@lru_cache(maxsize=4096)
def t_quantile(freedom: float, level: float = LEVEL) -> float:
    """Return the two-sided quantile of Student's t."""
    from scipy.special import stdtrit  # imported here: tables without repeated runs do not need it

    return float(stdtrit(min(freedom, 1e9), 0.5 + level / 2))


def difference(one: Mapping[int, float], other: Mapping[int, float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the difference of two means, one less other; None where a side has a single run.

    Paired where every seed of the row with fewer runs is among those of the other: data order and first weights
    are then the same, and only the methods differ. Otherwise Welch's, with the degrees of freedom of Satterthwaite.

    Args:
        one: values by seed.
        other: the same.
    """
    if min(len(one), len(other)) < 2:
        return None
    shared = sorted(one.keys() & other.keys())
    if len(shared) == min(len(one), len(other)):
        gaps = [one[seed] - other[seed] for seed in shared]
        centre, half = statistics.fmean(gaps), statistics.stdev(gaps) / math.sqrt(len(gaps))
        half *= t_quantile(len(gaps) - 1) if half else 1.0
        return centre - half, centre + half
    a, b = (statistics.variance(side.values()) / len(side) for side in (one, other))
    centre = statistics.fmean(one.values()) - statistics.fmean(other.values())
    if a + b == 0:
        return centre, centre
    freedom = (a + b) ** 2 / (a**2 / (len(one) - 1) + b**2 / (len(other) - 1))
    half = t_quantile(freedom) * math.sqrt(a + b)
    return centre - half, centre + half


def alike(one: Mapping[int, float], other: Mapping[int, float]) -> bool:
    """Return True where the interval of the difference holds zero; False for single runs, which tell nothing."""
    interval = difference(one, other)
    tiny = 1e-12 * max(1.0, *(abs(value) for side in (one, other) for value in side.values()))
    return interval is not None and interval[0] <= tiny and interval[1] >= -tiny


def best(values: Sequence[Mapping[int, float]], *, higher: bool) -> set[int]:
    """Return the places of the best mean and of all that cannot be told from it.

    Args:
        values: by seed, one mapping per row. Rows of a single run do not take part.
        higher: whether more is better.

    Returns:
        Nothing where fewer than two rows take part: there is nothing to be better than.
    """
    known = {place: statistics.fmean(row.values()) for place, row in enumerate(values) if len(row) > 1}
    if len(known) < 2:
        return set()
    top = max(known, key=lambda place: known[place] if higher else -known[place])
    return {place for place in known if place == top or alike(values[top], values[place])}


def marked(rows: Sequence[Row], key: Key) -> set[int]:
    """Return the places of the rows that are best in a number within their data set, network and sparsity.

    Dense training does not compete. A number without a better direction, or a measured speed, has no best.

    Args:
        rows: of a table.
        key: the number.
    """
    if key.direction == "none" or key.unit in ("s", "images/s"):
        return set()
    groups: dict[tuple[Any, ...], list[int]] = {}
    levels = {place: levels_of([row for row in rows if _place(row) == place]) for place in map(_place, rows)}
    for number, row in enumerate(rows):
        if not is_dense(row) and levels[_place(row)]:
            groups.setdefault((*_place(row), level_of(row, levels[_place(row)])), []).append(number)
    found: set[int] = set()
    for members in groups.values():
        winners = best([values_of(rows[number], key.name) for number in members], higher=key.direction == "higher")
        found |= {members[winner] for winner in winners}
    return found


def ties(rows: Sequence[Row], name: str) -> list[list[int]]:
    """Return for each row the places of the others of its data set and network that it cannot be told from.

    Args:
        rows: of a table.
        name: key of ``result.json``.
    """
    values = [values_of(row, name) for row in rows]
    found: list[list[int]] = [[] for _ in rows]
    for one, other in itertools.combinations(range(len(rows)), 2):
        if _place(rows[one]) == _place(rows[other]) and alike(values[one], values[other]):
            found[one].append(other)
            found[other].append(one)
    return found


def values_of(row: Row, name: str) -> dict[int, float]:
    """Return a number of a row's runs by seed."""
    return {run.result["seed"]: run.result[name] for run in row.runs if is_number(run.result.get(name))}


def levels_of(rows: Sequence[Row]) -> list[float]:
    """Return the sparsities that rows are compared at: targets, and emergent values far from all targets."""
    targets = {row.key["sparsity_target"] for row in rows if row.key["sparsity_target"] is not None}
    for row in rows:
        if row.key["sparsity_target"] is None and not is_dense(row) and "sparsity" in row.means:
            found = row.means["sparsity"].value
            if all(abs(found - target) > SAME for target in targets):
                targets.add(round(found, 3))
    return sorted(targets)


def level_of(row: Row, levels: Sequence[float]) -> float:
    """Return the sparsity at which a row is compared: the nearest of ``levels``."""
    target = row.key["sparsity_target"]
    at = target if target is not None else row.means["sparsity"].value if "sparsity" in row.means else 0.0
    return min(levels, key=lambda level: abs(level - at))


def _place(row: Row) -> tuple[Any, Any]:
    return row.key["dataset"], row.key["model"]
