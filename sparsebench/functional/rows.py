"""Masks without empty rows, for layers that divide by the norm of each row, at an unchanged number of ones."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor


def lift_rows(mask: Tensor, alive: Tensor, strength: Tensor, norms: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Keep the strongest weight of every row that would become zero, instead of a weaker weight elsewhere.

    Args:
        mask: bool; the weights to be active.
        alive: bool, same shape; the weights that keep their value. Active weights that are not alive start at zero.
        strength: current magnitudes, same shape.
        norms: shape of the norms; dimensions that a norm sums over have size 1.

    Returns:
        The mask, with the same number of ones, and the weights that keep their value.

    Raises:
        ValueError: a row is zero already, or there are fewer weights than rows.
    """
    row = torch.arange(max(1, math.prod(norms)), device=mask.device).reshape(norms).expand(mask.shape).reshape(-1)
    new, kept, size = mask.reshape(-1).clone(), alive.reshape(-1).clone(), strength.reshape(-1)
    held = torch.bincount(row[new & kept & (size > 0)], minlength=int(row.max()) + 1)
    sure = torch.zeros_like(new)  # the strongest weight of each row, which must stay
    for number in _places(held > 0):
        mine = ((row == number) & new & kept).nonzero().reshape(-1)
        sure[mine[size[mine].argmax()]] = True
    for number in _places(held == 0):
        mine = (row == number).nonzero().reshape(-1)
        best = mine[size[mine].argmax()]
        cost = torch.where(kept, size, 0.0).masked_fill(sure | ~new, math.inf)
        cost[mine[new[mine]]] = -1.0  # prefer to give up a new weight of the same row
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
