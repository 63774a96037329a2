"""Call the compiled kernels: descriptions as C structures, and threads."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sparsebench.execution.direct.build import library
from sparsebench.execution.direct.walk import Walk


class _Walk(ctypes.Structure):
    """``Walk`` of ``kernels.cpp``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("starts", "offsets", "tiles", "segments")),
        *(
            (name, ctypes.c_int64)
            for name in (
                "length",
                "taps",
                "blocks",
                "images",
                "pixels",
                "row_begin",
                "row_end",
                "tile_begin",
                "tile_end",
                "backward",
            )
        ),
    )


def product(walk: Walk, inputs: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply by sparse weights.

    Args:
        walk: index structure of the product.
        inputs: contiguous, (channels, pixels, images), at least as many images as a vector has lanes (``lanes``).
        values: the weights, in the order of the walk.
        bias: one per row, or None.

    Returns:
        (rows, pixels, images).
    """
    out = empty((walk.rows, walk.pixels, inputs.shape[2]), inputs.dtype)
    _run(walk, inputs, values, bias, out, backward=False)
    return out


def weight_gradient(walk: Walk, inputs: Tensor, grad: Tensor) -> Tensor:
    """Return the gradient of each weight, summed over pixels and images, in the order of the walk.

    Args:
        walk: index structure of the forward product.
        inputs: contiguous, (channels, pixels, images).
        grad: gradient of the outputs, contiguous, (rows, output pixels, images).
    """
    sums = inputs.new_zeros(walk.weights)
    _run(walk, inputs, None, grad, sums, backward=True)
    return sums


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return an uninitialised tensor, on large pages if it is large, since page faults may cost more than products."""
    out = torch.empty(shape, dtype=dtype)
    library().sparsebench_large_pages(ctypes.c_void_p(out.data_ptr()), ctypes.c_int64(out.nbytes))
    return out


def lanes(dtype: torch.dtype) -> int:
    """Return how many numbers of a type fit into a vector register, which is the minimum number of images."""
    return library().sparsebench_lanes_f32() * 4 // dtype.itemsize


def _run(
    walk: Walk,
    inputs: Tensor,
    values: Tensor | None,
    other: Tensor | None,
    out: Tensor,
    *,
    backward: bool,
) -> None:
    """Divide the work among threads; each number is computed by one thread, always in the same order."""
    function = library().sparsebench_f32 if inputs.dtype == torch.float32 else library().sparsebench_f64
    pointers = [ctypes.c_void_p(t.data_ptr() if t is not None else None) for t in (inputs, values, other, out)]
    threads = torch.get_num_threads()
    over_tiles = not backward and walk.tile_count >= 4 * threads
    total = walk.tile_count if over_tiles else walk.rows
    cuts = walk.even_rows(threads) if not over_tiles else [total * i // threads for i in range(threads + 1)]

    def part(begin: int, end: int) -> None:
        rows, tiles = ((0, walk.rows), (begin, end)) if over_tiles else ((begin, end), (0, walk.tile_count))
        addresses = (t.data_ptr() for t in (walk.starts, walk.offsets, walk.tiles, walk.segments))
        images = inputs.shape[2]
        length = walk.length or images
        described = _Walk(*addresses, length, walk.taps, walk.blocks, images, walk.pixels, *rows, *tiles, backward)
        function(ctypes.byref(described), *pointers)

    _share([(a, b) for a, b in pairwise(cuts) if a < b], part)


def _share(parts: list[tuple[int, int]], part: Callable[[int, int], Any]) -> None:
    if len(parts) == 1:
        part(*parts[0])
        return
    rest = [_pool(torch.get_num_threads()).submit(part, *piece) for piece in parts[1:]]
    if parts:
        part(*parts[0])
    for piece in rest:
        piece.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, threads - 1), thread_name_prefix="sparsebench-kernels")
