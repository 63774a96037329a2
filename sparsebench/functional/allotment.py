"""Divide a number of weights over layers in proportion to their shares, each layer limited by its free places."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def allot(
    total: int,
    deserved: Mapping[str, float],
    free: Mapping[str, int],
    *,
    fill: float = 1.0,
    units: Mapping[str, int] | None = None,
    up: bool = False,
) -> dict[str, int]:
    """Divide a number of weights over layers in proportion to their shares, within their free places.

    Each layer gets its quota rounded down, or up, at most ``fill`` of its free places. The remainder is spread
    evenly, in rounds, the largest remainders first; places beyond ``fill`` are used only when nothing else
    is left. Any excess after rounding up is taken from the largest parts, one unit at a time.

    Args:
        total: weights to divide.
        deserved: share of each layer, on any scale; equal shares where all are zero.
        free: places of each layer.
        fill: largest share of the free places to fill before every layer has reached it.
        units: size of the unit in which each layer's weights are given; 1 by default.
        up: whether to round quotas up, so that every layer with a positive share gets a unit, if there are enough.

    Returns:
        Weights of each layer. They sum to ``total`` if there is room and units are 1; with larger units, less than one
        unit may be left over.
    """
    size = dict.fromkeys(free, 1) if units is None else units
    scale = math.fsum(deserved[name] for name in free)
    quota = {name: total * (deserved[name] / scale if scale > 0 else 1 / len(free)) for name in free}
    room = {name: math.floor(fill * free[name]) // size[name] * size[name] for name in free}
    given = {name: min(room[name], _whole(quota[name], size[name], up=up)) for name in free}
    while sum(given.values()) > total:
        largest = max(free, key=lambda name: (given[name], -quota[name]))
        given[largest] -= size[largest]
    order = sorted(free, key=lambda name: -round(quota[name] - given[name], 6) if given[name] < room[name] else 0.0)
    for places in (room, free):
        _spread(total - sum(given.values()), given, places, size, order)
    return given


def _spread(
    left: int, given: dict[str, int], places: Mapping[str, int], size: Mapping[str, int], order: Sequence[str]
) -> None:
    """Give the remaining weights evenly to layers with free places, in rounds, adding to ``given`` in place."""
    while left > 0:
        takers = [n for n in order if size[n] <= left and given[n] + size[n] <= places[n]]
        if not takers:
            break
        each = left // len(takers)
        for name in takers:
            part = min(max(each, size[name]), places[name] - given[name], left) // size[name] * size[name]
            given[name], left = given[name] + part, left - part


def _whole(quota: float, unit: int, *, up: bool) -> int:
    """Round a quota to whole units, ignoring rounding errors; when rounding up, any positive quota gets a unit."""
    if not up:
        return math.floor(round(quota, 6)) // unit * unit
    return max(math.ceil(round(quota / unit, 9)), int(quota > 0)) * unit
