"""Which rows of a comparison are best, and which are not distinguishable from the best."""

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
"""Level of the intervals of differences."""
_TINY = 1e-12  # rounding of equal numbers
SAME = 5e-3
"""An emergent sparsity counts as a target that is nearer than this."""
MEANING = (
    "best of a data set, network and sparsity, or not distinguishable from it: the 95 % interval of the difference "
    "contains zero (paired by seed where seeds are shared, otherwise Welch's); a single run is never marked"
)
"""Explanation of a mark, without the mark."""


@lru_cache(maxsize=4096)
def t_quantile(freedom: float, level: float = LEVEL) -> float:
    """Return the two-sided quantile of Student's t."""
    from scipy.special import stdtrit  # imported here: tables without repeated runs do not need it

    return float(stdtrit(min(freedom, 1e9), 0.5 + level / 2))


def difference(one: Mapping[int, float], other: Mapping[int, float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the difference of two means, one less other; None if a side has a single run.

    The interval is paired if every seed of the row with fewer runs occurs in the other row: then data order and initial
    weights are the same, and only the methods differ. Otherwise it is Welch's, with the degrees of freedom of
    Satterthwaite.

    Args:
        one: values by seed.
        other: the same.
    """
    if min(len(one), len(other)) < 2:
        return None
    gaps = [one[seed] - other[seed] for seed in one if seed in other]
    if len(gaps) == min(len(one), len(other)):
        centre, spread = _moments(gaps)
        half = t_quantile(len(gaps) - 1) * math.sqrt(spread / len(gaps)) if spread else 0.0
        return centre - half, centre + half
    (first, a), (second, b) = (_moments(list(side.values())) for side in (one, other))
    a, b, centre = a / len(one), b / len(other), first - second
    if a + b == 0:
        return centre, centre
    freedom = (a + b) ** 2 / (a**2 / (len(one) - 1) + b**2 / (len(other) - 1))
    half = t_quantile(freedom) * math.sqrt(a + b)
    return centre - half, centre + half


def _moments(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and sample variance; a page compares each row with each, which ``statistics`` is too slow for."""
    mean = math.fsum(values) / len(values)
    return mean, math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def alike(one: Mapping[int, float], other: Mapping[int, float]) -> bool:
    """Return True if the interval of the difference contains zero; False for single runs, which have no interval."""
    interval = difference(one, other)
    return interval is not None and interval[0] <= _TINY and interval[1] >= -_TINY


def best(values: Sequence[Mapping[int, float]], *, higher: bool) -> set[int]:
    """Return the positions of the best mean and of all means not distinguishable from it.

    Args:
        values: by seed, one mapping per row. Rows of a single run are ignored.
        higher: whether more is better.

    Returns:
        An empty set if fewer than two rows remain.
    """
    known = {place: statistics.fmean(row.values()) for place, row in enumerate(values) if len(row) > 1}
    if len(known) < 2:
        return set()
    top = max(known, key=lambda place: known[place] if higher else -known[place])
    return {place for place in known if place == top or alike(values[top], values[place])}


def marked(rows: Sequence[Row], key: Key) -> set[int]:
    """Return the positions of the rows that are best within their data set, network and sparsity.

    Dense training does not compete. A number without a better direction, or a measured speed, has no best.

    Args:
        rows: rows of a table.
        key: the compared number.
    """
    if key.direction == "none" or key.unit in ("s", "images/s"):
        return set()
    groups: dict[tuple[Any, ...], list[int]] = {}
    levels = {place: levels_of([row for row in rows if _place(row) == place]) for place in set(map(_place, rows))}
    for number, row in enumerate(rows):
        if not is_dense(row) and levels[_place(row)]:
            groups.setdefault((*_place(row), level_of(row, levels[_place(row)])), []).append(number)
    found: set[int] = set()
    for members in groups.values():
        winners = best([values_of(rows[number], key.name) for number in members], higher=key.direction == "higher")
        found |= {members[winner] for winner in winners}
    return found


def ties(rows: Sequence[Row], name: str) -> list[list[int]]:
    """Return for each row the positions of the rows of its data set and network not distinguishable from it.

    Args:
        rows: rows of a table.
        name: key of ``result.json``.
    """
    values = [values_of(row, name) for row in rows]
    groups: dict[tuple[Any, Any], list[int]] = {}
    for number, row in enumerate(rows):
        if len(values[number]) > 1:
            groups.setdefault(_place(row), []).append(number)
    found: list[list[int]] = [[] for _ in rows]
    for members in groups.values():
        for one, other in itertools.combinations(members, 2):
            if alike(values[one], values[other]):
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
