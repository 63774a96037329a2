"""Index structures that tell the kernels which weight multiplies which pixel."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Pair = tuple[int, int]
Taps = tuple[int, int, int]
"""First tap, end, and the corner of their window in pixels of the input."""
Pixel = tuple[int, int, list[Taps]]
"""Place in the output, first corner, and the taps to read."""

CACHE = 2**20
"""Bytes of the second-level cache that the windows of a block of channels may fill."""


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


class Order:
    """The weights of a mask in the order in which a product reads them: row, block of channels, tap, channel.

    Args:
        mask: bool, (rows, taps, channels).

    Attributes:
        tap: tap of each weight; int32.
        channel: channel of each weight; int32.
        starts: first weight of each (row, block, tap), and the end.
        rows: number of rows.
        taps: number of taps.
        blocks: number of blocks.
    """

    def __init__(self, mask: Tensor) -> None:
        self.rows, self.taps, channels = mask.shape
        size = max(1, CACHE // (512 * (self.taps + self.taps // 3)))  # windows of two neighbouring pixels, 128 images
        self.blocks = max(1, -(-channels // size))
        size = -(-channels // self.blocks)
        self.strip = CACHE // (512 * self.taps * size)
        whole = functional.pad(mask, (0, self.blocks * size - channels))
        blocks: Tensor = whole.view(self.rows, self.taps, self.blocks, size).transpose(1, 2)
        found: list[Tensor] = list(blocks.nonzero().unbind(1))
        self.tap, self.channel = found[2].int(), (found[1] * size + found[3]).int()
        counts = blocks.sum(-1).reshape(-1)
        self.starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    @property
    def row(self) -> Tensor:
        """The row of each weight."""
        ends = self.starts[:: self.taps * self.blocks]
        return torch.repeat_interleave(torch.arange(self.rows), ends.diff())


@dataclass(frozen=True)
class Walk:
    """The index structure read by the kernels; see ``kernels.cpp`` for the meaning of each tensor.

    Attributes:
        starts: first weight of each (row, block, tap), and the end; int64.
        offsets: offset of each weight, in pixels; int32.
        tiles: (tiles, 6); int32.
        segments: (segments, 3); int32.
        rows: number of output channels of this product.
        taps: number of kernel positions.
        blocks: number of blocks of channels.
        pixels: number of output pixels.
        length: contiguous numbers at each tile; 0 = the number of images.
    """

    starts: Tensor
    offsets: Tensor
    tiles: Tensor
    segments: Tensor
    rows: int
    taps: int
    blocks: int
    pixels: int
    length: int = 0
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
            ends = self.starts[:: self.taps * self.blocks] + torch.arange(self.rows + 1)  # an empty row is written too
            inner = torch.searchsorted(ends, ends[-1] * torch.arange(1, parts) // parts)
            self._cuts[parts] = [0, *(int(cut) for cut in inner), self.rows]
        return self._cuts[parts]


def forward(order: Order, shape: Shape) -> Walk:
    """Return the walk of the forward product and of the weight gradient.

    Args:
        order: order of the mask (out channels, taps, in channels).
        shape: geometry of the convolution.
    """
    (height, width), (_, columns) = shape.image, shape.kernel
    tap = order.tap
    offsets = order.channel * (height * width) + tap // columns * width + tap % columns

    def seen(y: int, x: int) -> Iterator[tuple[int, int]]:
        top, left = y * shape.stride[0] - shape.padding[0], x * shape.stride[1] - shape.padding[1]
        for r, s in product(range(shape.kernel[0]), range(columns)):
            if 0 <= top + r < height and 0 <= left + s < width:
                yield r * columns + s, top * width + left

    tiles, segments = _tiles(shape.out, seen, order.strip)
    return Walk(
        order.starts, offsets.int(), tiles, segments, order.rows, order.taps, order.blocks, math.prod(shape.out)
    )


def flat(order: Order, shape: Shape, images: int) -> Walk:
    """Return the walk of the forward product of few images, stride 1, over a framed input seen as one long row.

    An output row is computed as wide as the framed input, so that all rows are contiguous; numbers beyond the output's
    width are meaningless. Distances count numbers, not pixels.

    Args:
        order: order of the mask (out channels, taps, in channels).
        shape: geometry of the convolution without padding, since the image already includes a frame of zeros.
        images: number of images.
    """
    (height, width), (_, columns) = shape.image, shape.kernel
    offsets = order.channel * (height * width) + order.tap // columns * width + order.tap % columns
    tiles, segments = _table([(0, 1, 0, 0, 0, 1)], 6), _table([(0, order.taps, 0)], 3)
    rows, wide = shape.out
    pixels, length = rows * width * images, ((rows - 1) * width + wide) * images
    return Walk(
        order.starts, (offsets * images).int(), tiles, segments, order.rows, order.taps, order.blocks, pixels, length
    )


def backward(order: Order, shape: Shape) -> Walk:
    """Return the walk of the input gradient, from the output's gradient to the input's channels.

    Args:
        order: order of the mask (in channels, taps, out channels).
        shape: geometry of the convolution.
    """
    (height, width), (_, columns) = shape.out, shape.kernel
    tap = order.tap
    straight = shape.stride == (1, 1)  # a tap is then a constant distance; otherwise it is one of several corners
    within = tap // columns * width + tap % columns if straight else 0
    offsets = order.channel * (height * width) - within

    def seen(y: int, x: int) -> Iterator[tuple[int, int]]:
        for r, s in product(range(shape.kernel[0]), range(columns)):
            below, right = y + shape.padding[0] - r, x + shape.padding[1] - s
            row, column = below // shape.stride[0], right // shape.stride[1]
            if below % shape.stride[0] or right % shape.stride[1] or not (0 <= row < height and 0 <= column < width):
                continue
            corner = (below + r) * width + right + s if straight else row * width + column
            yield r * columns + s, corner

    tiles, segments = _tiles(shape.image, seen, order.strip)
    return Walk(
        order.starts, offsets.int(), tiles, segments, order.rows, order.taps, order.blocks, math.prod(shape.image)
    )


def _tiles(out: Pair, seen: Callable[[int, int], Iterator[tuple[int, int]]], strip: int) -> tuple[Tensor, Tensor]:
    """Return runs of pixels that see the same taps, each with its segments of neighbouring taps of one corner.

    Args:
        out: rows and columns.
        seen: pixel -> tap and corner of the window, in order of taps.
        strip: pixels of a row before moving to the next row, so that windows are still in the cache.
    """
    tiles: list[tuple[int, ...]] = []
    segments: list[Taps] = []
    strip = strip // 2 * 2 if strip >= 4 else out[1]
    lefts = [0, *range(strip + 1, out[1], strip), out[1]]  # pairs of pixels begin after the border
    for (left, right), y in product(pairwise(lefts), range(out[0])):
        alike: dict[tuple[Taps, ...], list[Pixel]] = {}
        for x in range(left, right):
            runs = _merge(seen(y, x))
            first = runs[0][2] if runs else 0
            signature = tuple((a, b, corner - first) for a, b, corner in runs)
            alike.setdefault(signature, []).append((y * out[1] + x, first, runs))
        for run in (run for pixels in alike.values() for run in _evenly(pixels)):
            (pixel, first, runs), (second, following, _) = run[0], run[min(1, len(run) - 1)]
            tiles.append((pixel, len(run), second - pixel, following - first, len(segments), len(segments) + len(runs)))
            segments += runs
    return _table(tiles, 6), _table(segments, 3)


def _merge(taps: Iterator[tuple[int, int]]) -> list[Taps]:
    runs: list[Taps] = []
    for tap, corner in taps:
        if runs and runs[-1][1] == tap and runs[-1][2] == corner:
            runs[-1] = (runs[-1][0], tap + 1, corner)
        else:
            runs.append((tap, tap + 1, corner))
    return runs


def _evenly(pixels: list[Pixel]) -> Iterator[list[Pixel]]:
    """Cut a list of pixels into runs of equal steps, of the output and of the input."""
    run = pixels[:1]
    for here in pixels[1:]:
        steps = (here[0] - run[-1][0], here[1] - run[-1][1])
        if len(run) > 1 and steps != (run[1][0] - run[0][0], run[1][1] - run[0][1]):
            yield run
            run = []
        run.append(here)
    yield run


def _table(rows: Sequence[tuple[int, ...]], columns: int) -> Tensor:
    return torch.tensor(rows, dtype=torch.int32).reshape(-1, columns)
