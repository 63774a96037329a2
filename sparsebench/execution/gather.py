"""Differentiable gathering of rows and columns, and sums of tensors that hold different channels."""

from typing import Any

import torch
from torch import Tensor, nn


class _Block(torch.autograd.Function):
    """Gather rows and columns; the gradient is scattered into zeros. Indices are unique, so nothing accumulates."""

    @staticmethod
    def forward(ctx: Any, full: Tensor, rows: Tensor | None, columns: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, columns)
        ctx.like = (full.shape, full.stride())
        if rows is None:
            return full.index_select(1, columns)  # pyright: ignore[reportArgumentType]
        if columns is None:
            return full.index_select(0, rows)
        # two selections copy blocks of memory, which is faster if a kernel's weights are contiguous
        return (
            full.index_select(0, rows).index_select(1, columns)
            if full.is_contiguous()
            else full[rows[:, None], columns]
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        rows, columns = ctx.saved_tensors
        shape, stride = ctx.like
        (gradient,) = gradients
        full = torch.empty_strided(shape, stride, dtype=gradient.dtype, device=gradient.device).zero_()
        if columns is None:
            full[rows] = gradient
        elif rows is None:
            full[:, columns] = gradient
        else:
            full[rows[:, None], columns] = gradient
        return full, None, None


def take(full: Tensor, rows: Tensor | None, columns: Tensor | None = None) -> Tensor:
    """Return ``full[rows][:, columns]``, differentiable; the gradient has the strides of ``full``.

    Args:
        full: [outputs, inputs, ...] or, without columns, [channels].
        rows: unique indices on the tensor's device; None = all.
        columns: the same for the second dimension.
    """
    if rows is None and columns is None:
        return full
    return _Block.apply(full, rows, columns)  # pyright: ignore


class _Spread(torch.autograd.Function):
    """Scatter channels to their positions among zeros."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, places: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(places)
        ctx.layout = _layout(part)
        if ctx.layout == torch.contiguous_format:
            return part.new_zeros(part.shape[0], size, *part.shape[2:]).index_copy_(1, places, part)
        rows = _rows(part)
        if _by_product(part, size):
            return _image(_product(rows, _chosen(places, size, part)), part)
        return _image(rows.new_zeros(rows.shape[0], size).scatter_(1, places.expand(rows.shape[0], -1), rows), part)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (places,) = ctx.saved_tensors
        return _gather(gradients[0].contiguous(memory_format=ctx.layout), places), None, None


class _AddAt(torch.autograd.Function):
    """Add channels at their positions in a tensor with all channels, in one pass over it."""

    @staticmethod
    def forward(ctx: Any, full: Tensor, part: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.layout = _layout(full)
        if ctx.layout == torch.contiguous_format:
            return full.index_add(1, places, part)
        rows, added = _rows(full), _rows(part)
        if _by_product(full, full.shape[1]):
            return _image(_product(added, _chosen(places, full.shape[1], part), rows), full)
        return _image(rows.index_add(1, places, added), full)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (places,) = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=ctx.layout)
        return gradient, _gather(gradient, places), None


def spread(part: Tensor, places: Tensor | None, size: int) -> Tensor:
    """Return a tensor of ``size`` channels with ``part`` at ``places`` and zeros elsewhere; None changes nothing."""
    return part if places is None else _Spread.apply(part, places, size)  # pyright: ignore


def add_at(full: Tensor, part: Tensor, places: Tensor | None) -> Tensor:
    """Return ``full`` with ``part`` added to the channels at ``places``; None = to all of them."""
    if places is None:
        return full + part
    kind = torch.promote_types(full.dtype, part.dtype)
    return _AddAt.apply(full.to(kind), part.to(kind), places)  # pyright: ignore


def _gather(full: Tensor, places: Tensor) -> Tensor:
    """Return the channels at ``places``, in the memory layout of the tensor."""
    if _layout(full) == torch.contiguous_format:
        return full.index_select(1, places)
    rows = _rows(full)
    if _by_product(full, full.shape[1]):
        return _image(_product(rows, _chosen(places, full.shape[1], full).T), full)
    return _image(rows.index_select(1, places), full)


# If the channels of a pixel are contiguous, indexing pixels is slow, and indexing images yields contiguous planes,
# which slow all later layers. A product with a 0/1 matrix selects few channels faster, and exactly.


def _by_product(tensor: Tensor, channels: int) -> bool:
    """Return True if a matrix product is faster than indexing and still exact, which rounded float32 is not."""
    if tensor.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest":
        return False
    return channels <= (512 if tensor.element_size() == 2 else 64)  # measured on CPUs with and without AMX


def _product(rows: Tensor, matrix: Tensor, to: Tensor | None = None) -> Tensor:
    """Return ``rows @ matrix`` in their own type, even under autocast, added to another tensor if given."""
    with torch.autocast(rows.device.type, enabled=False):
        return rows @ matrix if to is None else torch.addmm(to, rows, matrix)


def _chosen(places: Tensor, size: int, like: Tensor) -> Tensor:
    """Return the 0/1 matrix [places, size] that scatters channels to their places."""
    return torch.zeros(len(places), size, dtype=like.dtype, device=like.device).scatter_(1, places[:, None], 1.0)


def _rows(image: Tensor) -> Tensor:
    """View a channels-last tensor as [pixels, channels]."""
    return image.permute(0, 2, 3, 1).reshape(-1, image.shape[1])


def _image(rows: Tensor, like: Tensor) -> Tensor:
    """View [pixels, channels] as a channels-last tensor."""
    return rows.reshape(like.shape[0], *like.shape[2:], -1).permute(0, 3, 1, 2)


class Sum(nn.Module):
    """Add two tensors that hold different subsets of the same channels.

    Attributes:
        places: positions of the channels of each summand in the sum; None = the summand has all of them.
        size: number of channels of the sum.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: tuple[Tensor | None, Tensor | None] = (None, None)
        self.size = 0

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        """Return the sum on the union of channels."""
        first, second = self.places
        if second is None:
            (one, first), (two, second) = (two, second), (one, first)
        return add_at(spread(one, first, self.size), two, second)


class Drop(nn.Module):
    """Replace a padding with zero channels, which a small network leaves out."""

    def forward(self, stream: Tensor, *_: Any, **__: Any) -> Tensor:
        """Return the stream unchanged."""
        return stream


def _layout(tensor: Tensor) -> torch.memory_format:
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format
