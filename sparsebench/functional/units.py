"""Patterns of units: weights that come and go together, a single one, a block or a channel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsebench.functional import budget as free
from sparsebench.functional.budget import Budget
from sparsebench.functional.ration import Shapes, best, compete, whole_steps
from sparsebench.functional.select import drop_and_grow, keep_top

Densities = Mapping[str, float] | float


@dataclass(frozen=True)
class Pattern:
    """Whole units of weights come and go together; a subclass says which.

    Attributes:
        shifts: whether a layer may gain weights that another one loses, whole units at a time.
        directed: whether the pattern tells outputs, the first dimension, from inputs.
    """

    shifts: ClassVar[bool] = True
    directed: ClassVar[bool] = True

    # -- what a subclass says -------------------------------------------------------------------------------------

    def unit(self, shape: tuple[int, ...]) -> int:
        """Return how many weights come and go together."""
        del shape
        return 1

    def step(self, shape: tuple[int, ...]) -> int:
        """Return by how many weights the budget of a layer can change."""
        return self.unit(shape)

    def units(self, values: Tensor) -> Tensor:
        """Sum values, or count the ones of a mask, over the members of each unit."""
        return values.detach()

    def spread(self, chosen: Tensor, like: Tensor) -> Tensor:
        """Return a bool mask over weights, with the shape and strides of ``like``, from one over units."""
        return torch.empty_like(like, dtype=torch.bool, requires_grad=False).copy_(chosen.reshape(like.shape))

    def refuse(self, shapes: Shapes, density: Densities) -> None:
        """Refuse a density, of each layer or of all together, that the pattern contradicts.

        Raises:
            ValueError: what contradicts, and the nearest request that would work.
        """

    # -- how much -------------------------------------------------------------------------------------------------

    def budget(self, shapes: Shapes, densities: Densities) -> Budget:
        """Turn densities into numbers of weights: as near to them as the pattern can express, in total.

        Raises:
            ValueError: a layer would be left without any weight.
        """
        if isinstance(densities, Mapping):
            return whole_steps(shapes, densities, {name: self.step(shape) for name, shape in shapes.items()})
        shared = math.gcd(*(self.step(shape) for shape in shapes.values()))
        total = sum(math.prod(shape) for shape in shapes.values())
        return round(round(densities * total, 6) / shared) * shared

    # -- which ----------------------------------------------------------------------------------------------------

    def keep(self, scores: Mapping[str, Tensor], kept: Budget) -> dict[str, Tensor]:
        """Return masks of the best units that spend a budget; ties go to the smaller index.

        A budget for all layers together goes to the units of largest score per weight; where units differ in size, less
        than one of them may be left over.
        """
        sums = {name: self.units(score) for name, score in scores.items()}
        sizes = {name: self.unit(tuple(score.shape)) for name, score in scores.items()}
        if isinstance(kept, int):
            chosen = compete(sums, sizes, kept)
        else:
            chosen = {name: keep_top(value, kept[name] // sizes[name]) for name, value in sums.items()}
        return {name: self.spread(chosen[name], score) for name, score in scores.items()}

    def prune(self, mask: Tensor, score: Tensor, count: int, *, allow_regrow: bool = True) -> Tensor:
        """Keep the ``count`` best of the active weights, rounded up to whole units; ties go to the smaller index.

        Args:
            mask: bool; what is active.
            score: same shape; looked at where the mask is on.
            count: weights to keep.
            allow_regrow: False keeps as much as must stay for the rest to be replaced by what is inactive now.
        """
        del allow_regrow
        active = self.units(mask) > 0
        kept = math.ceil(count / self.unit(tuple(mask.shape)))
        return self.spread(best(self.units(score), active, kept), mask)

    def outlast(self, mask: Tensor, score: Tensor, least: float) -> Tensor:
        """Keep the active units whose mean score is at least ``least``."""
        unit = self.unit(tuple(mask.shape))
        return self.spread((self.units(mask) > 0) & (self.units(score) / unit >= least), mask)

    def grow(self, mask: Tensor, score: Tensor, count: int, *, avoid: Tensor | None = None) -> Tensor:
        """Activate the ``count`` best of the inactive weights, rounded down to whole units; ties as in ``prune``.

        Args:
            mask: bool; what is active.
            score: same shape; looked at where the mask is off.
            count: weights to activate.
            avoid: bool; positions that grow only where nothing else is left.

        Raises:
            ValueError: more weights than are inactive.
        """
        active, wanted, scores = self.units(mask) > 0, count // self.unit(tuple(mask.shape)), self.units(score)
        idle = ~active if avoid is None else ~active & ~(self.units(avoid) > 0)
        if avoid is not None and wanted > (open_now := int(idle.sum())):
            active, wanted, idle = active | idle, wanted - open_now, ~active & ~idle
        return self.spread(active | best(scores, idle, wanted), mask)

    def drop_and_grow(
        self, mask: Tensor, drop_score: Tensor, grow_score: Tensor, count: int, *, allow_regrow: bool = True
    ) -> Tensor:
        """Drop the ``count`` weakest active weights, rounded down to whole units, then grow as many.

        The mask stays of this pattern and keeps its number of ones; ``allow_regrow`` lets the just-dropped return.

        Raises:
            ValueError: more than can be exchanged.
        """
        ones = int(mask.sum())
        most = ones if allow_regrow else min(ones, mask.numel() - ones)
        if not 0 <= count <= most:
            raise ValueError(f"cannot exchange {count} of {ones} active weights; at most {most} can be")
        kept = self.prune(mask, drop_score, ones - count, allow_regrow=allow_regrow)
        return self.grow(kept, grow_score, ones - int(kept.sum()), avoid=None if allow_regrow else mask & ~kept)

    def holds(self, mask: Tensor) -> bool:
        """Tell whether a mask obeys the pattern."""
        ones = self.units(mask)
        return bool(((ones == 0) | (ones == self.unit(tuple(mask.shape)))).all())


@dataclass(frozen=True)
class Unstructured(Pattern):
    """Any weight may be zero."""

    directed: ClassVar[bool] = False

    def budget(self, shapes: Shapes, densities: Densities) -> Budget:
        """Turn densities into exact counts: ``round(density * size)`` in total."""
        return free.budget(shapes, densities)

    def keep(self, scores: Mapping[str, Tensor], kept: Budget) -> dict[str, Tensor]:
        """Return masks of the largest scores that spend a budget exactly."""
        return free.keep(scores, kept)

    def drop_and_grow(
        self, mask: Tensor, drop_score: Tensor, grow_score: Tensor, count: int, *, allow_regrow: bool = True
    ) -> Tensor:
        """Exchange single weights."""
        return drop_and_grow(mask, drop_score, grow_score, count, allow_regrow=allow_regrow)


@dataclass(frozen=True)
class Blocks(Pattern):
    """Tiles of ``height`` outputs by ``width`` inputs are zero together.

    A convolution is read as the matrix (out, in * kernel height * kernel width).
    """

    height: int = 4
    width: int = 1

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"blocks of {self.height} x {self.width} are impossible: choose whole numbers above 0")

    def unit(self, shape: tuple[int, ...]) -> int:
        """Return the weights of a block."""
        return math.prod(self._tile(shape))

    def _tile(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return rows and columns of a block: the whole of a layer that cannot be tiled, which must then be dense."""
        rows, columns = shape[0], math.prod(shape[1:])
        tiled = rows % self.height == 0 and columns % self.width == 0
        return (self.height, self.width) if tiled else (rows, columns)

    def units(self, values: Tensor) -> Tensor:
        """Sum over each block: [rows of blocks, columns of blocks]."""
        high, wide = self._tile(tuple(values.shape))
        matrix = values.detach().reshape(values.shape[0], -1)
        tiles = matrix.reshape(matrix.shape[0] // high, high, matrix.shape[1] // wide, wide)
        return tiles.sum(dim=(1, 3), dtype=_sum_type(values))

    def spread(self, chosen: Tensor, like: Tensor) -> Tensor:
        """Repeat the choice over each block."""
        high, wide = self._tile(tuple(like.shape))
        whole = chosen.repeat_interleave(high, dim=0).repeat_interleave(wide, dim=1)
        return super().spread(whole, like)

    def refuse(self, shapes: Shapes, density: Densities) -> None:
        """Refuse blocks that do not tile a layer, unless it stays dense."""
        each = density if isinstance(density, Mapping) else dict.fromkeys(shapes, density)
        for name, shape in shapes.items():
            rows, columns = shape[0], math.prod(shape[1:])
            if each[name] < 1 and (rows % self.height or columns % self.width):
                fit = (math.gcd(rows, self.height), math.gcd(columns, self.width))
                raise ValueError(
                    f"blocks of {self.height} x {self.width} do not tile {name}, a matrix of {rows} x {columns}: "
                    f"choose pattern.height={fit[0]} pattern.width={fit[1]}, or leave the layer dense with "
                    f"prunable.exclude=[{name}]"
                )


@dataclass(frozen=True)
class Channels(Pattern):
    """Whole channels are zero: filters and rows for ``dim`` 0, input channels and columns for ``dim`` 1."""

    dim: int = 0

    def __post_init__(self) -> None:
        if self.dim not in (0, 1):
            raise ValueError(f"channels along dim={self.dim} are impossible: 0 counts the outputs, 1 the inputs")

    def unit(self, shape: tuple[int, ...]) -> int:
        """Return the weights of a channel."""
        return math.prod(shape) // shape[self.dim]

    def units(self, values: Tensor) -> Tensor:
        """Sum over each channel: [channels]."""
        rows = values.detach().movedim(self.dim, 0)
        return rows.reshape(rows.shape[0], -1).sum(dim=1, dtype=_sum_type(values))

    def spread(self, chosen: Tensor, like: Tensor) -> Tensor:
        """Repeat the choice over each channel."""
        broad = [1] * like.dim()
        broad[self.dim] = -1
        return super().spread(chosen.reshape(broad).expand(like.shape), like)


def _sum_type(values: Tensor) -> torch.dtype:
    return torch.int64 if values.dtype == torch.bool else torch.promote_types(values.dtype, torch.float32)
