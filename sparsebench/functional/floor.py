"""Masks in which no layer is empty, at an unchanged number of ones."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def lift_empty(masks: Mapping[str, Tensor], strengths: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give every empty layer its strongest weight, and take the weakest active one of the other layers for each.

    Args:
        masks: bool masks by layer.
        strengths: how much each weight matters, shapes of the masks; ties go to the smaller index.

    Returns:
        Masks with as many ones; the same ones where no layer was empty.

    Raises:
        ValueError: fewer weights than layers.
    """
    lifted = dict(masks)
    empty = [name for name, mask in masks.items() if not bool(mask.any())]
    if sum(int(mask.sum()) for mask in masks.values()) < len(masks):
        raise ValueError(f"{len(masks)} layers cannot keep one weight each: the budget is smaller; lower the sparsity")
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
    """Return layer and index of the weakest active weight among layers that can spare one."""
    best: tuple[float, str, int] | None = None
    for name, mask in masks.items():
        if int(mask.sum()) > 1:
            flat = strengths[name].reshape(-1).masked_fill(~mask.reshape(-1), float("inf"))
            lowest = flat.min()
            if best is None or float(lowest) < best[0]:
                best = (float(lowest), name, int((flat == lowest).nonzero()[0]))
    assert best is not None
    return best[1], best[2]
