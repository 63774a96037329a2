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
        matrices = {name: (shape[0], math.prod(shape[1:])) for name, shape in shapes.items() if each[name] < 1}
        misfits = {
            name: (rows, columns)
            for name, (rows, columns) in matrices.items()
            if rows % self.height or columns % self.width
        }
        if misfits:
            raise ValueError(self._misfit(misfits))

    def _misfit(self, matrices: Mapping[str, tuple[int, int]]) -> str:
        """Name every layer that the blocks do not tile, with one override that leaves them all dense."""
        (name, (rows, columns)), *others = matrices.items()
        said = f"blocks of {self.height} x {self.width} do not tile {name}, a matrix of {rows} x {columns}"
        rest = "".join(f", nor {other} ({high} x {wide})" for other, (high, wide) in others)
        high = math.gcd(self.height, *(rows for rows, _ in matrices.values()))
        wide = math.gcd(self.width, *(columns for _, columns in matrices.values()))
        layers = "these layers" if others else "the layer"
        return (
            f"{said}{rest}: choose pattern.height={high} pattern.width={wide}, or leave {layers} dense with "
            f"prunable.exclude=[{','.join(matrices)}]"
        )
