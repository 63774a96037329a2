"""Proximal maps and projections; each docstring states the problem that the result solves."""

import math
from typing import Literal, cast, get_args

import torch
from torch import Tensor

Groups = Literal["rows", "kernels", "filters"]


def soft_threshold(v: Tensor, threshold: float | Tensor) -> Tensor:
    """Shrink every entry towards zero by the threshold: sign(v) max(|v| - threshold, 0).

    The result is argmin_x  1/2 ||x - v||^2 + threshold ||x||_1.

    Args:
        v: Any shape.
        threshold: Zero or more; a tensor is broadcast against ``v``.

    Raises:
        ValueError: the threshold is a negative number.
    """
    if isinstance(threshold, Tensor):
        return v - torch.clamp(v, min=-threshold, max=threshold)
    return v - v.clamp(-_non_negative(threshold), threshold)


def group_soft_threshold(v: Tensor, threshold: float, *, groups: Groups) -> Tensor:
    """Shrink the norm of every group of entries; groups shorter than the threshold become zero.

    The result is argmin_x  1/2 ||x - v||^2 + threshold sum_g sqrt(size of g) ||x_g||_2.

    Args:
        v: Weight of a linear layer, (out, in), or of a convolution, (out, in, *kernel); any memory format.
        threshold: Zero or more.
        groups: ``rows``: the incoming weights of a linear unit; ``kernels``: one kernel per (out, in) pair of a
            convolution; ``filters``: all weights of an output channel of a convolution.

    Raises:
        ValueError: the groups do not fit the number of dimensions, or the threshold is negative.

    Source: the group regularisers of Bregman training (Bungert et al. 2022); groups are weighted by the root of their
    size.
    """
    if groups not in get_args(Groups):
        raise ValueError(f"groups {groups!r} must be one of {', '.join(get_args(Groups))}")
    if (groups == "rows") != (v.dim() == 2) or v.dim() < 2:
        fitting = {0: "no groups", 1: "no groups", 2: "'rows'"}.get(v.dim(), "'kernels' or 'filters'")
        raise ValueError(f"groups {groups!r} do not fit a weight of shape {tuple(v.shape)}, which allows {fitting}")
    dims = tuple(range(2 if groups == "kernels" else 1, v.dim()))
    if _non_negative(threshold) == 0:  # exact, also where squares would underflow in the norm
        return v.clone()
    limit = threshold * math.sqrt(math.prod(v.shape[dim] for dim in dims))
    length = torch.linalg.vector_norm(v, dim=dims, keepdim=True)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    norm = cast(Tensor, length)
    return v * torch.where(norm > limit, 1.0 - limit / norm, torch.zeros_like(norm))


def project_budget(values: Tensor, budget: float, equality: bool = False) -> Tensor:
    """Project values on the probabilities whose sum is within a budget.

    The result is argmin_s  ||s - values||^2  subject to  0 <= s <= 1  and  sum s <= budget  (or = budget). It has the
    form clip(values - shift, 0, 1), where the shift solves a piecewise linear equation. It is solved exactly, by
    sorting, in float64.

    Args:
        values: Any shape, finite.
        budget: Bound of the sum; 0 or more, and with ``equality`` no more than the number of values.
        equality: Whether the sum must equal the budget, so that the shift may be negative.

    Returns:
        The projection, shape and type of ``values``.

    Raises:
        ValueError: the budget is out of range, or a value is not finite.

    Source: VR-PGE (Zhou et al. 2021), projection of the scores, with an exact solver in place of bisection.
    """
    count = values.numel()
    if not budget >= 0 or (equality and budget > count):
        raise ValueError(f"budget {budget} must be 0 or more, and with equality at most the number of values, {count}")
    if not bool(values.isfinite().all()):
        raise ValueError("values to project must be finite; check for an overflow before the projection")
    clipped = values.detach().clamp(0.0, 1.0)
    if count == 0 or (not equality and float(clipped.sum(dtype=torch.float64)) <= budget):
        return clipped
    wide = values.detach().reshape(-1).to(torch.float64)
    return (wide - _shift(wide, budget)).clamp(0.0, 1.0).to(values.dtype).reshape(values.shape)


def _shift(values: Tensor, budget: float) -> Tensor:
    """Solve sum clip(values - v, 0, 1) = budget exactly for v."""
    points, order = torch.sort(torch.cat([values - 1.0, values]))
    # Passing values - 1 an entry leaves its upper bound (slope -1); passing values it reaches the lower one (slope +1).
    slope = torch.where(order < values.numel(), -1.0, 1.0).to(values).cumsum(0)
    drop = torch.cat([points.new_zeros(1), (slope[:-1] * points.diff()).cumsum(0)])
    level = values.numel() + drop
    index = int((level >= budget).sum()) - 1
    start = points[max(index, 0)]
    end = points[min(max(index, 0) + 1, len(points) - 1)]
    middle = (start + end) / 2.0
    free = (values > middle) & (values - 1.0 < middle)
    if not bool(free.any()):
        return start
    # Within the segment the equation is linear; solving it again removes the rounding of the running sums.
    ones = (values - 1.0 >= middle).sum()
    return (values[free].sum() + ones - budget) / free.sum()


def _non_negative(threshold: float) -> float:
    if not threshold >= 0:
        raise ValueError(f"threshold {threshold} must be 0 or more")
    return threshold
