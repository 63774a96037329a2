"""Mark the k largest entries of a vector, exactly and without sorting; long vectors are bracketed by a sample first."""

import math
from typing import NoReturn

import torch
from torch import Tensor


def top(flat: Tensor, k: int) -> Tensor:
    """Mark the k largest entries of a vector without NaN; ties go to the smaller index."""
    size = flat.numel()
    if not 0 <= k <= size:
        refuse_count(k, size)
    if k in (0, size):
        return torch.full_like(flat, k > 0, dtype=torch.bool)
    chosen = top_of_long(flat, k) if is_long(flat) else None
    return top_exactly(flat, k) if chosen is None else chosen


def top_exactly(flat: Tensor, k: int) -> Tensor:
    """Mark the k largest entries of a vector by its k-th largest value; ties go to the smaller index."""
    if k == 0:
        return torch.zeros_like(flat, dtype=torch.bool)
    threshold = kth_largest(flat, k)
    chosen = flat > threshold
    missing = k - int(chosen.count_nonzero())
    chosen[(flat == threshold).nonzero().reshape(-1)[:missing]] = True
    return chosen


SAMPLE = 1 << 14
"""Largest size of the sample for a bracket. Vectors of at least four times this length are sampled."""


def is_long(flat: Tensor) -> bool:
    """Return True if sampling pays: for a long vector of floats on a CPU."""
    return flat.device.type == "cpu" and flat.is_floating_point() and flat.numel() >= 4 * SAMPLE


def top_of_long(flat: Tensor, k: int, marked: Tensor | None = None) -> Tensor | None:
    """Mark the k largest entries, of the marked ones if given; return None if the sample misleads.

    Entries above the bracket are taken, and entries within it are ranked: the mask is the same as without a sample.
    """
    low, high = _bracket(flat, k, marked)
    chosen, candidates = flat > high, flat >= low
    if marked is not None:
        chosen &= marked
        candidates &= marked
    candidates ^= chosen  # everything above the bracket is above its lower end
    missing = k - int(chosen.count_nonzero())
    places = candidates.nonzero().reshape(-1)
    if not 0 <= missing <= len(places):
        return None
    chosen[places[top_exactly(flat[places], missing)]] = True
    return chosen


def _bracket(flat: Tensor, k: int, marked: Tensor | None) -> tuple[float, float]:
    """Return bounds between which the k-th largest entry lies, with four standard deviations to spare."""
    stride = stride_of(flat)
    sample = flat[::stride] if marked is None else flat[::stride][marked[::stride]]
    drawn, share = sample.numel(), sample.numel() * stride / flat.numel()
    above = min(1.0, k / max(1, drawn * stride))
    # variance of the rank in the sample, and of the number of marked entries, which is estimated as well
    variance = above * (1 - above) * drawn + above**2 * max(0.0, 1 - share) * drawn
    spread, rank = 4 * math.sqrt(variance) + 2, (1 - above) * drawn
    first, last = math.floor(rank - spread), math.ceil(rank + spread)
    low = float(torch.kthvalue(sample, first).values) if first >= 1 else -math.inf
    high = float(torch.kthvalue(sample, last).values) if last <= drawn else math.inf
    return low, high


def stride_of(flat: Tensor) -> int:
    """Return the distance between the sampled entries of a vector."""
    return flat.numel() // SAMPLE | 1  # odd, so that a sample does not follow the shape of a layer


def kth_largest(flat: Tensor, k: int) -> Tensor:
    """Return the k-th largest value of a vector, a scalar tensor."""
    size = flat.numel()
    if flat.device.type == "cpu":
        return torch.kthvalue(flat, size - k + 1).values
    # On accelerators kthvalue is slow, while topk selects by radix. Select the shorter side.
    if 2 * k <= size:
        return torch.topk(flat, k, sorted=False).values.min()
    return torch.topk(flat, size - k + 1, largest=False, sorted=False).values.max()


def refuse_count(k: int, size: int) -> NoReturn:
    """Raise ``ValueError`` for a count outside the number of entries."""
    raise ValueError(f"cannot keep {k} of {size} entries; k must be from 0 to {size}")
