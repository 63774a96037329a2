"""Masks in which no layer, or no row whose norm is divided by, is empty, at an unchanged number of ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

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


def lift_rows(mask: Tensor, alive: Tensor, strength: Tensor, norms: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Keep the strongest weight of every row that would have the norm 0, in the place of a weaker one.

    Args:
        mask: bool; what is to be active.
        alive: bool, same shape; what keeps its value. What is active and not alive starts at zero.
        strength: magnitudes as they are, same shape.
        norms: shape of the norms: 1 in the dimensions that a norm sums over.

    Returns:
        The mask with as many ones, and what keeps its value.

    Raises:
        ValueError: a row is zero already, or there are fewer weights than rows.
    """
    row = torch.arange(max(1, math.prod(norms)), device=mask.device).reshape(norms).expand(mask.shape).reshape(-1)
    new, kept, size = mask.reshape(-1).clone(), alive.reshape(-1).clone(), strength.reshape(-1)
    held = torch.bincount(row[new & kept & (size > 0)], minlength=int(row.max()) + 1)
    sure = torch.zeros_like(new)  # the strongest of each row does not go
    for number in _places(held > 0):
        mine = ((row == number) & new & kept).nonzero().reshape(-1)
        sure[mine[size[mine].argmax()]] = True
    for number in _places(held == 0):
        mine = (row == number).nonzero().reshape(-1)
        best = mine[size[mine].argmax()]
        cost = torch.where(kept, size, 0.0).masked_fill(sure | ~new, math.inf)
        cost[mine[new[mine]]] = -1.0  # rather one of the same row, which starts at zero
        weakest = cost.argmin()
        if not size[best] > 0 or bool(cost[weakest].isinf()):
            raise ValueError(
                f"row {number} would be zero, and weight_norm divides by its norm: lower the sparsity, "
                f"choose pattern=fan_in, or leave the layer dense"
            )
        new[weakest], new[best], kept[best], sure[best] = False, True, True, True
    return torch.empty_like(mask).copy_(new.reshape(mask.shape)), kept.reshape(mask.shape)


def _places(marks: Tensor) -> list[int]:
    """Return the positions of a vector's ones."""
    return cast(list[int], marks.nonzero().reshape(-1).tolist())  # pyright: ignore[reportUnknownMemberType]


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
