"""Linear layers and convolutions with sparse weights, as functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from sparsebench.execution.direct import native
from sparsebench.execution.direct.build import available
from sparsebench.execution.direct.support import Support, packed, support_of
from sparsebench.execution.direct.walk import Pair, Shape

_POINT = Shape((1, 1), (1, 1), (1, 1), (0, 0))
_TYPES = (torch.float32, torch.float64)

Multiply = Callable[[Tensor, Tensor, Tensor | None, Support, Shape], Tensor]
"""Inputs (channels, pixels, images), values, bias, support and geometry -> outputs, differentiable."""


def linear(x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply by the active weights of a linear layer; equals ``F.linear(x, weight * mask, bias)``.

    The cost of forward pass, input gradient and weight gradient is proportional to the number of active weights.
    Computation is in float32 or float64, under autocast in float32. If the kernels cannot be compiled, dense products
    are used, with one warning.

    Args:
        x: (..., in features), on a CPU.
        weight: (out features, in features); its gradient is zero outside the mask.
        mask: bool, shape of the weight; indexed once, and again after every change.
        bias: (out features), or None.

    Returns:
        (..., out features), stored with the batch innermost, the layout that sparse layers read fastest.

    Raises:
        ValueError: shapes, types or devices do not match.
    """
    x, weight, bias = _cast(x, weight, bias)
    _check("linear", x, weight, mask, bias, dimensions=2)
    if x.ndim < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"direct.linear: x of shape {tuple(x.shape)} does not fit weight of shape {tuple(weight.shape)}: "
            f"the last size of x must be {weight.shape[1]}"
        )
    if not available():
        return functional.linear(x, weight * mask, bias)
    support = support_of(mask)
    return linear_values(x, support.values(weight), support, bias)


def conv2d(
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
) -> Tensor:
    """Convolve with the active weights; equals ``F.conv2d(x, weight * mask, bias, stride, padding)``.

    All else is as in ``linear``. Only convolutions with one group and without dilation are supported.

    Args:
        x: (images, channels, rows, columns), on a CPU, in any memory format.
        weight: (out channels, channels, rows, columns); its gradient is zero outside the mask.
        mask: bool, shape of the weight.
        bias: (out channels), or None.
        stride: one number for both directions, or (rows, columns).
        padding: zeros on each side, one number or (rows, columns).

    Returns:
        (images, out channels, rows, columns), stored with the batch innermost.

    Raises:
        ValueError: shapes, types or devices do not match.
    """
    x, weight, bias = _cast(x, weight, bias)
    _check("conv2d", x, weight, mask, bias, dimensions=4)
    shape = _geometry(x, weight, _pair("stride", stride, 1), _pair("padding", padding, 0))
    if not available():
        return functional.conv2d(x, weight * mask, bias, shape.stride, shape.padding)
    support = support_of(mask)
    return conv2d_values(x, support.values(weight), support, bias, shape.stride, shape.padding)


def _geometry(x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Shape:
    """Return the geometry of a convolution; raise ``ValueError`` if the tensors do not match."""
    if x.ndim != 4 or x.shape[1] != weight.shape[1]:
        raise ValueError(
            f"direct.conv2d: x of shape {tuple(x.shape)} does not fit weight of shape {tuple(weight.shape)}: "
            f"(images, {weight.shape[1]}, rows, columns) is needed; groups are not supported"
        )
    shape = Shape((x.shape[2], x.shape[3]), (weight.shape[2], weight.shape[3]), stride, padding)
    if min(shape.out) < 1:
        raise ValueError(
            f"direct.conv2d: a kernel of {shape.kernel} does not fit an image of {shape.image} with padding {padding}"
        )
    return shape


def linear_values(
    x: Tensor, values: Tensor, support: Support, bias: Tensor | None = None, *, multiply: Multiply | None = None
) -> Tensor:
    """Multiply by a linear layer that is stored as its active values.

    Args:
        x: (..., in features), float32 or float64, unchecked.
        values: the active weights, in the order of the support.
        support: positions of the active weights.
        bias: (out features), or None.
        multiply: function that multiplies; the kernels by default.
    """
    rows = x.reshape(-1, x.shape[-1])
    if rows.shape[0] == 0:
        return functional.linear(x, support.scatter(values), bias)
    out = _multiply(rows.t().unsqueeze(1), values, support, bias, _POINT, multiply)
    return out.squeeze(1).t().reshape(*x.shape[:-1], -1) if x.ndim != 2 else out.squeeze(1).t()


def conv2d_values(
    x: Tensor,
    values: Tensor,
    support: Support,
    bias: Tensor | None = None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    *,
    multiply: Multiply | None = None,
) -> Tensor:
    """Convolve with a kernel that is stored as its active values; other arguments as in ``linear_values``."""
    if x.shape[0] == 0:
        return functional.conv2d(x, support.scatter(values), bias, stride, padding)
    shape = Shape((x.shape[2], x.shape[3]), support.kernel, stride, padding)
    if multiply is None and stride == (1, 1) and x.shape[0] < native.lanes(x.dtype) and not _recorded(x, values, bias):
        return support.few(x.permute(1, 2, 3, 0), values.contiguous(), bias, shape).permute(3, 0, 1, 2).contiguous()
    out = _multiply(x.permute(1, 2, 3, 0).flatten(1, 2), values, support, bias, shape, multiply)
    return out.view(-1, *shape.out, x.shape[0]).permute(3, 0, 1, 2)


def _multiply(
    x: Tensor, values: Tensor, support: Support, bias: Tensor | None, shape: Shape, multiply: Multiply | None
) -> Tensor:
    if multiply is not None:
        return multiply(packed(x), values, bias, support, shape)
    images, least = x.shape[2], native.lanes(x.dtype)
    if images >= least:
        return support.multiply(packed(x), values, bias, shape)
    padded = packed(functional.pad(x, (0, least - images)))
    return support.multiply(padded, values, bias, shape)[..., :images].contiguous()


def _recorded(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _cast(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    if not torch.is_autocast_enabled("cpu"):
        return x, weight, bias
    low = (torch.bfloat16, torch.float16)
    x, weight = (t.float() if t.dtype in low else t for t in (x, weight))
    return x, weight, bias.float() if bias is not None and bias.dtype in low else bias


def _check(name: str, x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, *, dimensions: int) -> None:
    if weight.ndim != dimensions:
        raise ValueError(
            f"direct.{name}: weight of shape {tuple(weight.shape)} has {weight.ndim} dimensions: "
            f"{dimensions} are needed"
        )
    if mask.shape != weight.shape or mask.dtype != torch.bool:
        raise ValueError(
            f"direct.{name}: the mask is {mask.dtype} of shape {tuple(mask.shape)}: "
            f"a bool tensor of the weight's shape {tuple(weight.shape)} is needed"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"direct.{name}: bias of shape {tuple(bias.shape)} does not fit: ({weight.shape[0]},) is needed"
        )
    tensors = [t for t in (x, weight, bias) if t is not None]
    if x.dtype not in _TYPES or any(t.dtype != x.dtype for t in tensors):
        raise ValueError(
            f"direct.{name}: types {', '.join(str(t.dtype) for t in tensors)} do not match: x, weight and bias must "
            f"all be float32 or all be float64"
        )
    if any(t.device.type != "cpu" for t in (*tensors, mask)):
        raise ValueError(
            f"direct.{name} runs on CPUs only, and a tensor is on "
            f"{next(t.device for t in (*tensors, mask) if t.device.type != 'cpu')}: move it, or use masks"
        )


def _pair(name: str, value: Any, least: int) -> Pair:
    pair: tuple[Any, ...] = (value, value)
    if not isinstance(value, int):
        pair = tuple(cast(Any, value)) if isinstance(value, (tuple, list)) else ()
    if len(pair) != 2 or not all(isinstance(n, int) and n >= least for n in pair):
        raise ValueError(
            f"direct.conv2d: {name}={value!r} is impossible: give a whole number of at least {least}, or two such "
            f"numbers"
        )
    return pair[0], pair[1]
