"""Which weight multiplies which pixel: the index structures that the kernels walk along."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

Pair = tuple[int, int]


class Shape(NamedTuple):
    """The geometry of a convolution: image, kernel, stride, padding, each as (rows, columns)."""

    image: Pair
    kernel: Pair
    stride: Pair
    padding: Pair

    @property
    def out(self) -> Pair:
        """Rows and columns of the output; below 1 where the kernel does not fit."""
        rows, columns = (
            (i + 2 * p - k) // s + 1
            for i, k, s, p in zip(self.image, self.kernel, self.stride, self.padding, strict=True)
        )
        return rows, columns


@dataclass(frozen=True)
class Walk:
    """What the kernels read: see ``kernels.cpp`` for the meaning of each tensor.

    Attributes:
        starts: first weight of each (row, tap), and the end; int64.
        offsets: of each weight, in pixels; int32.
        tiles: (tiles, 6); int32.
        segments: (segments, 3); int32.
        rows: output channels of this product.
        taps: positions of the kernel.
        pixels: of the output.
    """

    starts: Tensor
    offsets: Tensor
    tiles: Tensor
    segments: Tensor
    rows: int
    taps: int
    pixels: int
    _cuts: dict[int, list[int]] = field(default_factory=dict[int, list[int]], compare=False, repr=False)

    @property
    def weights(self) -> int:
        """The number of weights."""
        return self.offsets.numel()

    @property
    def tile_count(self) -> int:
        """The number of tiles."""
        return self.tiles.shape[0]

    def even_rows(self, parts: int) -> list[int]:
        """Return where to cut the rows so that each part has about as many weights."""
        if parts not in self._cuts:
            ends = self.starts[:: self.taps] + torch.arange(self.rows + 1)  # an empty row is written too
            inner = torch.searchsorted(ends, ends[-1] * torch.arange(1, parts) // parts)
            self._cuts[parts] = [0, *inner.tolist(), self.rows]
        return self._cuts[parts]


def forward(mask: Tensor, shape: Shape) -> Walk:
    """Return the walk of the forward product and of the weight gradient.

    Args:
        mask: bool, (out channels, taps, in channels).
        shape: of the convolution.
    """
    rows, taps, _ = mask.shape
    where = mask.nonzero()
    (height, width), (_, columns) = shape.image, shape.kernel
    tap = where[:, 1]
    offsets = where[:, 2] * (height * width) + tap // columns * width + tap % columns

    def seen(y: int, x: int) -> Iterator[tuple[int, int]]:
        top, left = y * shape.stride[0] - shape.padding[0], x * shape.stride[1] - shape.padding[1]
        for r, s in product(range(shape.kernel[0]), range(columns)):
            if 0 <= top + r < height and 0 <= left + s < width:
                yield r * columns + s, top * width + left

    tiles, segments = _tiles(shape.out, seen)
    return Walk(_starts(mask), offsets.int(), tiles, segments, rows, taps, shape.out[0] * shape.out[1])


def backward(mask: Tensor, shape: Shape) -> Walk:
    """Return the walk of the input gradient: its rows are the input's channels, its input is the output's gradient.

    Args:
        mask: bool, (out channels, taps, in channels).
        shape: of the convolution.
    """
    turned = mask.permute(2, 1, 0)
    rows, taps, _ = turned.shape
    where = turned.nonzero()
    (height, width), (_, columns) = shape.out, shape.kernel
    tap = where[:, 1]
    straight = shape.stride == (1, 1)  # a tap is then a constant distance, or else one of several corners
    within = tap // columns * width + tap % columns if straight else 0
    offsets = where[:, 2] * (height * width) - within

    def seen(y: int, x: int) -> Iterator[tuple[int, int]]:
        for r, s in product(range(shape.kernel[0]), range(columns)):
            below, right = y + shape.padding[0] - r, x + shape.padding[1] - s
            row, column = below // shape.stride[0], right // shape.stride[1]
            if below % shape.stride[0] or right % shape.stride[1] or not (0 <= row < height and 0 <= column < width):
                continue
            corner = (below + r) * width + right + s if straight else row * width + column
            yield r * columns + s, corner

    tiles, segments = _tiles(shape.image, seen)
    return Walk(_starts(turned), offsets.int(), tiles, segments, rows, taps, shape.image[0] * shape.image[1])


def _starts(mask: Tensor) -> Tensor:
    counts = mask.sum(-1).reshape(-1)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _tiles(out: Pair, seen: Callable[[int, int], Iterator[tuple[int, int]]]) -> tuple[Tensor, Tensor]:
    """Return runs of pixels that see the same taps, each with its segments of neighbouring taps of one corner."""
    tiles: list[tuple[int, ...]] = []
    segments: list[tuple[int, int, int]] = []
    for y in range(out[0]):
        alike: dict[tuple[tuple[int, int, int], ...], list[tuple[int, int, list[tuple[int, int, int]]]]] = {}
        for x in range(out[1]):
            runs = _merge(seen(y, x))
            first = runs[0][2] if runs else 0
            signature = tuple((a, b, corner - first) for a, b, corner in runs)
            alike.setdefault(signature, []).append((y * out[1] + x, first, runs))
        for pixels in alike.values():
            for run in _evenly(pixels):
                pixel, first, runs = run[0]
                second = run[1] if len(run) > 1 else run[0]
                begin = len(segments)
                segments += runs
                tiles.append((pixel, len(run), second[0] - pixel, second[1] - first, begin, len(segments)))
    return _table(tiles, 6), _table(segments, 3)


def _merge(taps: Iterator[tuple[int, int]]) -> list[tuple[int, int, int]]:
    runs: list[tuple[int, int, int]] = []
    for tap, corner in taps:
        if runs and runs[-1][1] == tap and runs[-1][2] == corner:
            runs[-1] = (runs[-1][0], tap + 1, corner)
        else:
            runs.append((tap, tap + 1, corner))
    return runs


def _evenly(pixels: list[tuple[int, int, list[tuple[int, int, int]]]]) -> Iterator[list[tuple[int, int, list[tuple[int, int, int]]]]]:
    """Cut a list of pixels into runs of equal steps, of the output and of the input."""
    run = pixels[:1]
    for here in pixels[1:]:
        steps = (here[0] - run[-1][0], here[1] - run[-1][1])
        if len(run) > 1 and steps != (run[1][0] - run[0][0], run[1][1] - run[0][1]):
            yield run
            run = []
        run.append(here)
    yield run


def _table(rows: list[tuple[int, ...]], columns: int) -> Tensor:
    return torch.tensor(rows, dtype=torch.int32).reshape(-1, columns)
