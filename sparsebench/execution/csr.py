"""Linear layers and 1x1 convolutions through PyTorch's own compressed sparse rows."""

from __future__ import annotations

import warnings
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparsebench.execution.direct.support import Support, packed
from sparsebench.execution.direct.walk import Order, Shape

COLUMNS = 128
"""Width of a tile of activations. MKL does not block a wide dense operand, and tiles of this width double its speed."""


def serves(shape: Shape) -> bool:
    """Return True if a convolution is a single matrix product: 1x1, stride 1, no padding."""
    return shape.kernel == (1, 1) and shape.stride == (1, 1) and shape.padding == (0, 0)


def multiply(inputs: Tensor, values: Tensor, bias: Tensor | None, support: Support, shape: Shape) -> Tensor:
    """Multiply by a sparse matrix, differentiable; arguments and result as in ``Support.multiply``.

    Raises:
        ValueError: the convolution is more than one matrix product.
    """
    if not serves(shape):
        raise ValueError(
            f"csr serves linear layers and 1x1 convolutions of stride 1 without padding, not a kernel of "
            f"{shape.kernel} with stride {shape.stride} and padding {shape.padding}: use direct or masked"
        )
    channels, pixels, images = inputs.shape
    out = _Csr.apply(inputs.reshape(channels, pixels * images), values, support)
    out = out.view(-1, pixels, images)  # pyright: ignore[reportOptionalMemberAccess]
    return out if bias is None else out + bias.view(-1, 1, 1)


class _Csr(torch.autograd.Function):
    """Multiply a sparse matrix by dense columns; the gradient of the values is sampled on their positions."""

    @staticmethod
    def forward(ctx: Any, columns: Tensor, values: Tensor, support: Support) -> Tensor:
        ctx.save_for_backward(columns, values)
        ctx.support = support
        return _product(_matrix(values, support.orders[0], support.shape[1]), columns)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        columns, values = ctx.saved_tensors
        support: Support = ctx.support
        grad = packed(grad.unsqueeze(1)).squeeze(1)
        to_columns = to_values = None
        if ctx.needs_input_grad[0]:
            turned = values.index_select(0, support.turn)
            to_columns = _product(_matrix(turned, support.orders[1], support.shape[0]), grad)
        if ctx.needs_input_grad[1]:
            to_values = torch.zeros_like(values)
            if support.count:
                places = _matrix(to_values, support.orders[0], support.shape[1])
                sampled = cast(Tensor, torch.sparse.sampled_addmm(places, grad, columns.t(), beta=0.0))  # pyright: ignore
                to_values = sampled.values()
        return to_columns, to_values, None


def _matrix(values: Tensor, order: Order, columns: int) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "support is in beta state", once per process
        starts = order.starts[:: order.taps * order.blocks]
        size = (order.rows, columns)
        return torch.sparse_csr_tensor(  # pyright: ignore[reportUnknownMemberType]
            starts, order.channel.long(), values, size, check_invariants=False
        )


def _product(matrix: Tensor, columns: Tensor) -> Tensor:
    if matrix.values().numel() == 0:
        return columns.new_zeros(matrix.shape[0], columns.shape[1])
    if columns.shape[1] <= COLUMNS:
        return matrix @ columns
    out = columns.new_empty(matrix.shape[0], columns.shape[1])
    for begin in range(0, columns.shape[1], COLUMNS):
        tile = slice(begin, begin + COLUMNS)
        out[:, tile] = matrix @ columns[:, tile].contiguous()
    return out
