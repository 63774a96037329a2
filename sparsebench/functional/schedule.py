"""Schedules: functions of a start value, an end value and the progress in [0, 1].

Every function clamps the progress, and returns exactly ``start`` at 0 and exactly ``end`` at 1 (``constant`` apart).
"""

import math
from collections.abc import Callable

Schedule = Callable[[float, float, float], float]
"""Start, end, progress -> value."""


def constant(start: float, end: float, progress: float) -> float:
    """Return ``start`` at any progress; ``end`` is accepted so that all schedules share one signature."""
    del end, progress
    return start


def linear(start: float, end: float, progress: float) -> float:
    """Go from ``start`` to ``end`` at constant speed."""
    return _blend(start, end, 1.0 - _clamp(progress))


def cosine(start: float, end: float, progress: float) -> float:
    """Go from ``start`` to ``end`` along half a cosine: end + (start - end) (1 + cos(pi p)) / 2.

    Source: the drop fraction of RigL (Evci et al. 2020, section 3) is ``cosine(alpha, 0, t / T_end)``.
    """
    return _blend(start, end, (1.0 + math.cos(math.pi * _clamp(progress))) / 2.0)


def cubic(start: float, end: float, progress: float) -> float:
    """Go from ``start`` to ``end``, fast at first: end + (start - end) (1 - p)^3.

    Source: gradual magnitude pruning (Zhu and Gupta 2017, equation 1). The formula is affine in its ends, so applying
    it to densities or to sparsities gives the same result.
    """
    return polynomial(start, end, progress, power=3.0)


def polynomial(start: float, end: float, progress: float, *, power: float = 3.0) -> float:
    """Go from ``start`` to ``end`` along a power: end + (start - end) (1 - p)^power.

    Raises:
        ValueError: ``power`` is not positive.
    """
    if power <= 0:
        raise ValueError(f"power {power} of a polynomial schedule must be above 0; 1 is linear, 3 is cubic")
    return _blend(start, end, (1.0 - _clamp(progress)) ** power)


def exponential(start: float, end: float, progress: float) -> float:
    """Go from ``start`` to ``end`` by a constant factor per unit of progress: start (end / start)^p.

    Source: SynFlow's schedule of the density (Tanaka et al. 2020, algorithm 1) is ``exponential(1, density, i / n)``.

    Raises:
        ValueError: an end is not positive.
    """
    if start <= 0 or end <= 0:
        raise ValueError(f"an exponential schedule from {start} to {end} needs both ends above 0; use linear or cosine")
    p = _clamp(progress)
    return start ** (1.0 - p) * end**p


def _clamp(progress: float) -> float:
    return min(max(progress, 0.0), 1.0)


def _blend(start: float, end: float, share: float) -> float:
    """Return ``share`` of the start plus the rest of the end, exact at both ends."""
    return start if share == 1.0 else end + (start - end) * share
