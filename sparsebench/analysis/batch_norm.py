"""Recompute batch-norm statistics, which are wrong after averaging weights or changing masks."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]  (no public name)


@torch.no_grad()
def recalibrate_(module: nn.Module, batches: Iterable[Any]) -> int:
    """Replace running statistics by the cumulative mean over one pass of data.

    The old statistics are reset first. Only norms run in training mode, so dropout stays off. Source: Izmailov et al.
    2018 (arXiv 1803.05407).

    Args:
        module: changed in place; its forward takes images.
        batches: (images, labels), on the module's device.

    Returns:
        Number of norms whose statistics were recomputed.
    """
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    if not norms:
        return 0
    with _collecting(module, norms):
        for images, _ in batches:
            module(images)
    return len(norms)


@contextlib.contextmanager
def _collecting(module: nn.Module, norms: list[_BatchNorm]) -> Generator[None]:
    momenta = [norm.momentum for norm in norms]
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
        norm.train()
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
