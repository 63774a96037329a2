"""Passes and training steps measured by the benchmark of back ends."""

from __future__ import annotations

import argparse
import contextlib
import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsebench.execution.layers import Kernel, SparseLayers
from sparsebench.execution.layout import kept
from sparsebench.functional.select import random_mask
from sparsebench.models import build
from sparsebench.sparse import SparseModel


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """Return a dense 3x3 convolution that keeps the size of its maps."""
    return functional.conv2d(x, weight, padding=1)


def layer_pass(product: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor) -> Callable[[], None]:
    """Return a forward pass with both gradients; the output's gradient has the output's layout, as in a network."""
    leaves = x.detach().requires_grad_(), weight.detach().requires_grad_()
    grad = torch.randn_like(product(*leaves).detach())

    def run() -> None:
        torch.autograd.grad(product(*leaves), leaves, grad)

    return run


def training_step(
    net: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    low: bool = False,
    masks: Mapping[str, Tensor] | None = None,
    backend: Kernel = "direct",
) -> Callable[[], None]:
    """Return a training step: forward, backward, SGD with momentum.

    Args:
        net: trained in place.
        x: the inputs.
        labels: classes of the inputs.
        low: compute products in bfloat16, under autocast.
        masks: run sparse products with these masks; None = run the network unchanged.
        backend: back end of these products.
    """
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-6, momentum=0.9, weight_decay=5e-4, fused=True)
    state = SparseModel.of(net) if masks is not None else None
    runner = None
    if state is not None and masks is not None:
        state.set_masks(masks)
        runner = SparseLayers(net, state.params, backend)

    def run() -> None:
        within = contextlib.nullcontext() if runner is None or state is None else runner.installed(state.masks)
        with within, torch.autocast("cpu", torch.bfloat16, enabled=low):
            logits = net(x)
        functional.cross_entropy(logits.float(), labels).backward()
        if state is not None:
            state.mask_gradients_()
        optimizer.step()
        optimizer.zero_grad()

    return run


def predict(net: nn.Module, x: Tensor, *, low: bool = False, layout: bool = False) -> Callable[[], Any]:
    """Return a prediction: in bfloat16 if ``low``; with the batch innermost in norms and pools if ``layout``."""

    def run() -> Any:
        within = kept(net) if layout else contextlib.nullcontext()
        with within, torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=low):
            return net(x)

    return run


def copy_masked(net: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of a network whose weights outside the masks are zero."""
    other = copy.deepcopy(net)
    SparseModel.of(other).set_masks(masks)
    return other


def make_network(options: argparse.Namespace) -> nn.Module:
    """Build the network named in the options."""
    return build(options.model, classes=10, shape=(3, options.size, options.size))


def make_batch(options: argparse.Namespace, images: int | None = None) -> tuple[Tensor, Tensor]:
    """Draw images and their classes."""
    count = images or options.batch
    return torch.randn(count, 3, options.size, options.size), torch.randint(0, 10, (count,))


def draw_masks(net: nn.Module, density: float, spread: Callable[..., Mapping[str, float]]) -> dict[str, Tensor]:
    """Draw random masks of a density for every weight that may be sparse."""
    shapes = SparseModel.of(net).shapes
    shares = spread(shapes, density)
    generator = torch.Generator().manual_seed(0)
    return {n: random_mask(s, max(1, round(shares[n] * torch.Size(s).numel())), generator) for n, s in shapes.items()}
