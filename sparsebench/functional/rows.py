"""Masks in which no row whose norm is divided by is empty, at an unchanged number of ones."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor


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
