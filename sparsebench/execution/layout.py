"""Keep activations in the batch-innermost layout of sparse products through batch norm and pooling."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from functools import partial

from torch import Tensor, nn

from sparsebench.execution.base import replace

_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


def innermost(x: Tensor) -> bool:
    """Return True if images (batch, channels, rows, columns) are stored with the batch innermost."""
    return x.ndim == 4 and x.permute(1, 2, 3, 0).is_contiguous() and not x.is_contiguous()


@contextlib.contextmanager
def kept(network: nn.Module) -> Generator[None]:
    """Make BatchNorm and pooling keep batch-innermost images in that layout while the context lasts.

    PyTorch's own kernels would copy them to another layout, and back at the next sparse layer. The numbers are equal.
    """
    with contextlib.ExitStack() as stack:
        for layer in network.modules():
            if type(layer) is nn.BatchNorm2d:
                replace(stack, layer, "forward", partial(_norm, layer.forward))
            elif type(layer) in _POOLS:
                replace(stack, layer, "forward", partial(_pool, layer.forward))
        yield


def _norm(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Normalise channels: one image of (rows x columns, batch) pixels has the same statistics."""
    if not innermost(x):
        return forward(x)
    turned = x.permute(1, 2, 3, 0)
    return forward(turned.flatten(1, 2).unsqueeze(0)).squeeze(0).view(turned.shape).permute(3, 0, 1, 2)


def _pool(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Pool within channels: exchanging batch and channels makes the layout channels-last."""
    return forward(x.transpose(0, 1)).transpose(0, 1) if innermost(x) else forward(x)
