"""The loss barrier between two networks: low when both lie in one basin, so that averaging them is safe."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

Weights = Mapping[str, Tensor]


def interpolate(one: Weights, two: Weights, at: float) -> dict[str, Tensor]:
    """Return ``(1 - at) one + at two``; tensors without a floating-point type come from the first."""
    return {n: value.lerp(two[n], at) if value.is_floating_point() else value for n, value in one.items()}


def barrier(
    loss: Callable[[Weights], float],
    one: Weights,
    two: Weights,
    *,
    points: int = 1,
    ends: tuple[float, float] | None = None,
) -> float:
    """Return the largest rise of the loss above the straight line between two networks, at least 0.

    ``max over t of loss((1 - t) one + t two) - ((1 - t) loss(one) + t loss(two))``. With batch norm, the loss should
    recalibrate the statistics at every point; otherwise the barrier reflects wrong statistics. Source: Frankle et al.
    2020 (arXiv 1912.05671), with the line in place of the mean of the ends.

    Args:
        loss: weights -> loss or error.
        one: weights at 0.
        two: weights at 1.
        points: inner points, evenly spread.
        ends: losses of the two networks, if already known.

    Raises:
        ValueError: ``points`` is below 1.
    """
    if points < 1:
        raise ValueError(f"a barrier needs at least one inner point, {points} given")
    first, last = ends or (loss(one), loss(two))
    inner = [index / (points + 1) for index in range(1, points + 1)]
    return max(0.0, *(loss(interpolate(one, two, t)) - (1 - t) * first - t * last for t in inner))
