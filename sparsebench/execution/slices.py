"""Differentiable pieces of tensors: kept rows and columns, and sums of tensors that hold different channels."""

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
        # two selections copy blocks of memory, which pays where a kernel's weights lie side by side
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
    """Put channels at their places among zeros."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, places: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(places)
        if _layout(part) == torch.channels_last:
            shape, layout = (part.shape[0], size, *part.shape[2:]), torch.channels_last
            full = torch.empty(shape, dtype=part.dtype, device=part.device, memory_format=layout).zero_()
            return full.index_copy_(1, places, part)
        # a selection copies whole planes, and a channel of zeros in the end gives what is missing
        source = torch.full((size,), part.shape[1], device=part.device).index_copy_(
            0, places, torch.arange(part.shape[1], device=part.device)
        )
        zero = torch.zeros_like(part[:, :1])
        return torch.cat([part, zero], dim=1).index_select(1, source)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (places,) = ctx.saved_tensors
        return gradients[0].index_select(1, places), None, None


def spread(part: Tensor, places: Tensor | None, size: int) -> Tensor:
    """Return a tensor of ``size`` channels with ``part`` at ``places`` and zeros elsewhere; None leaves it alone."""
    return part if places is None else _Spread.apply(part, places, size)  # pyright: ignore


class Sum(nn.Module):
    """Add two tensors that hold different subsets of the same channels.

    Attributes:
        places: where the channels of each summand lie in the sum; None = it holds all of them.
        size: channels of the sum.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: tuple[Tensor | None, Tensor | None] = (None, None)
        self.size = 0

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        """Return the sum on the union of channels."""
        first, second = self.places
        return spread(one, first, self.size) + spread(two, second, self.size)


class Drop(nn.Module):
    """Stand in for a padding of zero channels, which a small network leaves out."""

    def forward(self, stream: Tensor, *_: Any, **__: Any) -> Tensor:
        """Return the stream as it is."""
        return stream


def _layout(tensor: Tensor) -> torch.memory_format:
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format
