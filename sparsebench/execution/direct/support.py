"""The active positions of one weight, and the products over them."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.weak import WeakTensorKeyDictionary

from sparsebench.execution.direct import native
from sparsebench.execution.direct.build import available
from sparsebench.execution.direct.walk import Order, Shape, Walk, backward, flat, forward


class Support:
    """The active positions of a weight, indexed for the kernels; built once per mask.

    Args:
        mask: bool, (out features, in features) or (out channels, in channels, rows, columns).

    Attributes:
        shape: shape of the weight.
        index: positions of the active weights in the flattened weight, in the order of the forward product.
        turn: permutation from this order to the order of the input gradient.
    """

    def __init__(self, mask: Tensor) -> None:
        self.shape = tuple(mask.shape)
        out, channels, *kernel = self.shape
        self.kernel = (kernel[0], kernel[1]) if kernel else (1, 1)
        taps = mask.reshape(out, channels, -1).transpose(1, 2)
        self._forward, self._backward = Order(taps), Order(taps.transpose(0, 2))
        self.index = self._positions(self._forward.row, self._forward.channel, self._forward.tap)
        places = torch.empty(mask.numel(), dtype=torch.int32)
        places[self.index] = torch.arange(self.index.numel(), dtype=torch.int32)
        self.turn = places[self._positions(self._backward.channel, self._backward.row, self._backward.tap)]
        self._walks: dict[Shape, tuple[Walk, Walk]] = {}
        self._flat: dict[tuple[Shape, int], Walk] = {}

    def _positions(self, out: Tensor, channel: Tensor, tap: Tensor) -> Tensor:
        return (out * self.shape[1] + channel) * math.prod(self.kernel) + tap

    @property
    def count(self) -> int:
        """The number of active weights."""
        return self.index.numel()

    def walks(self, shape: Shape) -> tuple[Walk, Walk]:
        """Return the walks of the forward product and of the input gradient, built once per geometry."""
        if shape not in self._walks:
            self._walks[shape] = forward(self._forward, shape), backward(self._backward, shape)
        return self._walks[shape]

    @property
    def orders(self) -> tuple[Order, Order]:
        """The order of the forward product and of the input gradient."""
        return self._forward, self._backward

    def few(self, inputs: Tensor, values: Tensor, bias: Tensor | None, shape: Shape) -> Tensor:
        """Convolve few images with stride 1, not differentiable: vectors run along pixels, not along images.

        Args:
            inputs: (channels, rows, columns, images).
            values: the active weights.
            bias: one per output channel, or None.
            shape: the geometry.

        Returns:
            (out channels, output rows, output columns, images).
        """
        images, (rows, columns) = inputs.shape[3], shape.out
        (up, left), (height, width) = shape.padding, shape.image
        framed = Shape((height + 2 * up, width + 2 * left), shape.kernel, (1, 1), (0, 0))
        across = framed.image[1]
        wanted = -(-native.lanes(inputs.dtype) // ((rows - 1) * across + columns))  # vectors must be full
        count = max(images, wanted)
        whole = functional.pad(inputs, (0, count - images, left, left, up, up)).contiguous()
        if (framed, count) not in self._flat:
            self._flat[framed, count] = flat(self._forward, framed, count)
        out = native.product(self._flat[framed, count], whole.view(self.shape[1], -1, 1), values, bias)
        return out.view(-1, rows, across, count)[:, :, :columns, :images]

    def values(self, weight: Tensor) -> Tensor:
        """Return the active values of a weight, differentiable."""
        return _Gather.apply(weight, self)  # pyright: ignore[reportReturnType]

    def scatter(self, values: Tensor) -> Tensor:
        """Return a weight of these active values, zeros elsewhere."""
        fits = values.device.type == "cpu" and available()
        flat = (native.empty(self.shape, values.dtype).zero_() if fits else values.new_zeros(self.shape)).view(-1)
        return flat.index_copy_(0, self.index, values).view(self.shape)

    def multiply(self, inputs: Tensor, values: Tensor, bias: Tensor | None, shape: Shape) -> Tensor:
        """Multiply by the weight, differentiable.

        Args:
            inputs: (channels, pixels, images).
            values: the active weights.
            bias: one per output channel, or None.
            shape: the geometry.

        Returns:
            (out channels, output pixels, images).
        """
        return _Product.apply(inputs, values, bias, self, shape)  # pyright: ignore[reportReturnType]


_KNOWN: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
_COUNTED: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def support_of(mask: Tensor) -> Support:
    """Return the support of a mask, rebuilt only when the mask has changed."""
    if mask.is_inference():  # inference tensors have no version counter
        return Support(mask)
    known = cast("tuple[int, Support] | None", _KNOWN.get(mask))  # pyright: ignore[reportUnknownMemberType]
    if known is None or known[0] != mask._version:
        known = (mask._version, Support(mask))
        _KNOWN[mask] = known
    return known[1]


def density_of(mask: Tensor) -> float:
    """Return the share of ones of a mask, recounted only when the mask has changed."""
    if mask.is_inference():
        return int(mask.count_nonzero()) / max(1, mask.numel())
    known = cast("tuple[int, float] | None", _COUNTED.get(mask))  # pyright: ignore[reportUnknownMemberType]
    if known is None or known[0] != mask._version:
        known = (mask._version, int(mask.count_nonzero()) / max(1, mask.numel()))
        _COUNTED[mask] = known
    return known[1]


class _Gather(torch.autograd.Function):
    """Active values of a weight; the gradient has the weight's shape, with zeros outside the mask."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, support: Support) -> Tensor:
        ctx.support = support
        return weight.reshape(-1).index_select(0, support.index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.support.scatter(grad), None


class _Product(torch.autograd.Function):
    """The product of batch-innermost inputs with sparse weights."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, values: Tensor, bias: Tensor | None, support: Support, shape: Shape
    ) -> Tensor:
        ctx.save_for_backward(inputs, values)
        ctx.support, ctx.shape, ctx.biased = support, shape, bias is not None
        walk, _ = support.walks(shape)
        return native.product(walk, inputs, values.contiguous(), None if bias is None else bias.contiguous())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        inputs, values = ctx.saved_tensors
        forth, back = ctx.support.walks(ctx.shape)
        grad = packed(grad)
        wanted = ctx.needs_input_grad
        to_inputs = native.product(back, grad, values.index_select(0, ctx.support.turn), None) if wanted[0] else None
        to_values = native.weight_gradient(forth, inputs, grad) if wanted[1] else None
        to_bias = grad.sum((1, 2)) if ctx.biased and wanted[2] else None
        return to_inputs, to_values, to_bias, None, None


def packed(tensor: Tensor) -> Tensor:
    """Return (channels, pixels, images) contiguous; images that come first are moved by one matrix transposition."""
    turned = tensor.permute(2, 0, 1)
    if not tensor.is_contiguous() and turned.is_contiguous():
        return turned.reshape(turned.shape[0], -1).t().contiguous().view(tensor.shape)
    return tensor.contiguous()
