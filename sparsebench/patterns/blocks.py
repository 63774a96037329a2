"""Block pattern: tiles of a weight matrix that are zero together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from sparsebench.functional.counts import Shapes
from sparsebench.patterns.base import Densities, Pattern, sum_type


@dataclass(frozen=True)
class Blocks(Pattern):
    """Make tiles of ``height`` outputs by ``width`` inputs active or zero as a whole.

    The weight of a convolution is read as the matrix (out, in * kernel height * kernel width).
    """

    height: int = 4
    width: int = 1

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"blocks of {self.height} x {self.width} are impossible: choose whole numbers above 0")

    def unit(self, shape: tuple[int, ...]) -> int:
        """Return the number of weights of a block."""
        return math.prod(self._tile(shape))

    def _tile(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return rows and columns of a block; the whole matrix if it cannot be tiled and so must be dense."""
        rows, columns = shape[0], math.prod(shape[1:])
        tiled = rows % self.height == 0 and columns % self.width == 0
        return (self.height, self.width) if tiled else (rows, columns)

    def units(self, values: Tensor) -> Tensor:
        """Sum over each block: [rows of blocks, columns of blocks]."""
        high, wide = self._tile(tuple(values.shape))
        matrix = values.detach().reshape(values.shape[0], -1)
        tiles = matrix.reshape(matrix.shape[0] // high, high, matrix.shape[1] // wide, wide)
        return tiles.sum(dim=(1, 3), dtype=sum_type(values))

    def spread(self, chosen: Tensor, like: Tensor) -> Tensor:
        """Repeat the choice over the weights of each block."""
        high, wide = self._tile(tuple(like.shape))
        whole = chosen.repeat_interleave(high, dim=0).repeat_interleave(wide, dim=1)
        return super().spread(whole, like)

    def refuse(self, shapes: Shapes, density: Densities) -> None:
        """Raise ``ValueError`` for blocks that do not tile a layer, unless it stays dense."""
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
