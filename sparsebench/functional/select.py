"""Convert scores to boolean masks with exact counts.

Every function keeps exactly the requested number of entries. Ties go to the smaller logical (row-major) index, in any
memory format; the mask has the shape and the strides of the scores. NaN is an error, infinities are legal scores. The
result equals a stable sort's but needs no sorting: take everything above the threshold, then fill up with scores equal
to it. In a long vector on a processor, a sample brackets the threshold first, and only entries within the bracket are
ranked.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from sparsebench.functional.ranking import SAMPLE, is_long, refuse_count, stride_of, top, top_of_long


def keep_top(scores: Tensor, k: int) -> Tensor:
    """Keep the ``k`` largest scores.

    Args:
        scores: Any shape and real type.
        k: Number of scores to keep, from 0 to all.

    Returns:
        Boolean mask with exactly ``k`` ones.

    Raises:
        ValueError: k is out of range, or a score is NaN.
    """
    return _shaped(top(_flat(scores), k), scores)


def keep_top_global(scores: Mapping[str, Tensor], k: int) -> dict[str, Tensor]:
    """Keep the ``k`` largest scores of all tensors in one ranking; ties go to the earlier tensor.

    Args:
        scores: Name to scores, on one device.
        k: Number of scores to keep in total.

    Returns:
        Name to boolean mask, with exactly ``k`` ones in total.

    Raises:
        ValueError: k is out of range, or a score is NaN.
    """
    if not scores:
        return {} if k == 0 else refuse_count(k, 0)
    for name, value in scores.items():
        reject_nan(value, f" of {name!r}")
    chosen = top(torch.cat([_flat(value, check=False) for value in scores.values()]), k)
    masks: dict[str, Tensor] = {}
    start = 0
    for name, value in scores.items():
        # Cloned, since a view would keep alive (and save) the masks of all tensors.
        masks[name] = _shaped(chosen[start : start + value.numel()].clone(), value)
        start += value.numel()
    return masks


def keep_top_each(scores: Mapping[str, Tensor], counts: Mapping[str, int]) -> dict[str, Tensor]:
    """Keep the largest scores of each tensor, ``counts[name]`` of them.

    Raises:
        ValueError: a count is missing or out of range, or a score is NaN.
    """
    missing = [name for name in scores if name not in counts]
    if missing:
        raise ValueError(f"no count for {missing[0]!r}; give one for each of the {len(scores)} tensors")
    return {name: keep_top(value, counts[name]) for name, value in scores.items()}


def keep_top_among(scores: Tensor, among: Tensor, k: int) -> Tensor:
    """Mark the k largest scores among the marked entries; no score, however low, stands for "excluded"."""
    flat, marked = _flat(scores, check=False), among.reshape(-1)
    # few marked entries are gathered, many are read in place
    if is_long(flat) and 4 * int(marked[:: stride_of(flat)].count_nonzero()) > SAMPLE and not bool(flat.max().isnan()):
        chosen = top_of_long(flat, k, marked)
        if chosen is not None:
            return chosen.reshape(among.shape)
    places = marked.nonzero().reshape(-1)
    return _mark(places[keep_top(flat[places], k)], marked).reshape(among.shape)


def rank_across_layers(sums: Mapping[str, Tensor], sizes: Mapping[str, int], budget: int) -> dict[str, Tensor]:
    """Rank the units of all layers by score per weight, and keep the best that fit into the budget."""
    means = {name: value / sizes[name] for name, value in sums.items()}
    order = torch.cat([value.reshape(-1) for value in means.values()]).sort(descending=True, stable=True).indices
    prices = torch.cat([torch.full((v.numel(),), sizes[n], device=order.device) for n, v in means.items()])
    return keep_top_global(means, int((prices[order].cumsum(0) <= budget).sum()))


def grow_top_among(mask: Tensor, scores: Tensor, count: int, avoid: Tensor | None = None) -> Tensor:
    """Mark ``count`` more entries, those with the largest scores among the entries that are off.

    Args:
        mask: Boolean; entries that are on stay on.
        scores: Same shape; read where the mask is off.
        count: Number of entries to add.
        avoid: Boolean, same shape; entries that are added only if no others are left.

    Raises:
        ValueError: fewer than ``count`` entries are off, or a score is NaN.
    """
    # Candidates are gathered, never scored to zero: -inf and zero are valid scores.
    off = ~mask if avoid is None else ~mask & ~avoid
    if avoid is not None and count > (open_now := int(off.count_nonzero())):
        mask, count, off = mask | off, count - open_now, ~mask & ~off
    return mask | keep_top_among(scores, off, count)


def drop_and_grow(
    mask: Tensor, drop_score: Tensor, grow_score: Tensor, count: int, *, allow_regrow: bool = True
) -> Tensor:
    """Drop the ``count`` active entries with the smallest drop score, then grow as many by largest grow score.

    On ties the smaller index stays, or grows. The patterns run the two halves, ``keep_top_among`` and
    ``grow_top_among``, on single weights or on whole units; methods that move weights between layers compare the layers
    in between.

    Args:
        mask: Boolean, any shape.
        drop_score: Same shape; read where the mask is on.
        grow_score: Same shape; read where no entry was kept.
        count: Number of entries to exchange.
        allow_regrow: Whether dropped entries may grow again at once; otherwise only entries that were off before may
            grow.

    Returns:
        New boolean mask with as many ones as the old one.

    Raises:
        ValueError: ``count`` exceeds the active or the growable entries, shapes differ, or a score is NaN.

    Source: RigL (Evci et al. 2020, algorithm 1).
    """
    if mask.dtype != torch.bool or not mask.shape == drop_score.shape == grow_score.shape:
        shapes = f"{tuple(mask.shape)}, {tuple(drop_score.shape)} and {tuple(grow_score.shape)}"
        raise ValueError(f"a boolean mask and scores of its shape are needed, not {mask.dtype} and {shapes}")
    active = int(mask.count_nonzero())
    limit = active if allow_regrow else min(active, mask.numel() - active)
    if not 0 <= count <= limit:
        raise ValueError(f"cannot exchange {count} of {active} active entries; at most {limit} can be")
    kept = keep_top_among(drop_score, mask, active - count)
    return _shaped(grow_top_among(kept, grow_score, count, None if allow_regrow else mask & ~kept), mask)


def random_mask(shape: tuple[int, ...], k: int, generator: torch.Generator) -> Tensor:
    """Draw a mask with exactly ``k`` ones, uniformly among all such masks, on the generator's device.

    Raises:
        ValueError: k is out of range.
    """
    mask = torch.zeros(shape, dtype=torch.bool, device=generator.device)
    size = mask.numel()
    if not 0 <= k <= size:
        refuse_count(k, size)
    mask.view(-1)[torch.randperm(size, generator=generator, device=generator.device)[:k]] = True
    return mask


def lift_empty(masks: Mapping[str, Tensor], strengths: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give every empty layer its strongest weight, in exchange for the weakest active weight of the other layers.

    Args:
        masks: bool masks by layer.
        strengths: importance of each weight, in the shapes of the masks; ties go to the smaller index.

    Returns:
        Masks with the same number of ones; unchanged if no layer was empty.

    Raises:
        ValueError: there are fewer active weights than layers.
    """
    lifted = dict(masks)
    empty = [name for name, mask in masks.items() if not bool(mask.any())]
    if sum(int(mask.count_nonzero()) for mask in masks.values()) < len(masks):
        raise ValueError(
            f"{len(masks)} layers cannot keep one weight each, because the budget is smaller: lower the sparsity"
        )
    for name in empty:
        donor, weakest = _weakest(lifted, strengths)
        for layer, index, value in ((donor, weakest, False), (name, _strongest(strengths[name]), True)):
            flat = lifted[layer].reshape(-1).clone()
            flat[index] = value
            lifted[layer] = torch.empty_like(lifted[layer]).copy_(flat.reshape(lifted[layer].shape))
    return lifted


def _strongest(strength: Tensor) -> int:
    flat = strength.reshape(-1)
    return int((flat == flat.max()).nonzero()[0])


def _weakest(masks: Mapping[str, Tensor], strengths: Mapping[str, Tensor]) -> tuple[str, int]:
    """Return layer and index of the weakest active weight among the layers with more than one."""
    best: tuple[float, str, int] | None = None
    for name, mask in masks.items():
        if int(mask.count_nonzero()) > 1:
            flat = strengths[name].reshape(-1).masked_fill(~mask.reshape(-1), float("inf"))
            lowest = flat.min()
            if best is None or float(lowest) < best[0]:
                best = (float(lowest), name, int((flat == lowest).nonzero()[0]))
    assert best is not None
    return best[1], best[2]


def _flat(scores: Tensor, *, check: bool = True) -> Tensor:
    """Flatten the scores in logical order."""
    if check:
        reject_nan(scores)
    flat = scores.detach().reshape(-1)
    return flat.to(torch.uint8) if flat.dtype == torch.bool else flat


def _shaped(chosen: Tensor, like: Tensor) -> Tensor:
    """Reshape a flat mask to the shape and the strides of a tensor."""
    mask = chosen.reshape(like.shape)
    if mask.stride() == like.stride():
        return mask
    return torch.empty_like(like, dtype=torch.bool, requires_grad=False).copy_(mask)


def reject_nan(scores: Tensor, where: str = "") -> None:
    """Raise ``ValueError`` if a score is NaN, since its rank would be arbitrary."""
    # The maximum propagates NaN and needs no memory.
    if scores.is_floating_point() and scores.numel() and bool(scores.detach().max().isnan()):
        raise ValueError(f"a score{where} is NaN; check for a diverged loss or an overflow before ranking")


def _mark(places: Tensor, like: Tensor) -> Tensor:
    chosen = torch.zeros_like(like)
    chosen[places] = True
    return chosen
