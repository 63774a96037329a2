"""Masking and rewiring of other programs, reimplemented from their publications, for comparison.

Two patterns, named after programs that use them. ``itop``: after each step, weights and momentum are replaced by their
product with a float mask; an update sorts every layer twice and reads thresholds from the device. ``rigl_torch``: each
step multiplies gradient, momentum and weight by a bool mask; an update ranks every layer twice in full and scatters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsebench.sparse import SparseModel

Masks = Mapping[str, Tensor]


class Itop:
    """Masks as floats, applied out of place after the step; updates by two full sorts."""

    def __init__(self, net: SparseModel) -> None:
        self.params = net.params
        self.masks = {name: net.mask(name).float() for name in net.params}

    @torch.no_grad()
    def before_step(self, optimizer: Optimizer) -> None:
        """Leave the gradients dense."""

    @torch.no_grad()
    def after_step(self, optimizer: Optimizer) -> None:
        """Replace weights and momentum by their products with the masks."""
        for name, mask in self.masks.items():
            parameter = self.params[name]
            parameter.data = parameter.data * mask
            momentum = optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                optimizer.state[parameter]["momentum_buffer"] = momentum * mask

    @torch.no_grad()
    def update(self, gradients: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
        """Return new masks: a sort of magnitudes with a threshold read from it, then a sort of gradients."""
        found: dict[str, Tensor] = {}
        for name, mask in self.masks.items():
            size = self.params[name].abs()
            zeros = int((mask == 0).sum().item())
            dropped = math.ceil(share * int(mask.sum().item()))
            ordered, _ = torch.sort(size.reshape(-1))
            threshold = ordered[zeros + dropped - 1].item()
            kept = (size > threshold).float()
            grown = int(mask.sum().item()) - int(kept.sum().item())
            promise = gradients[name].abs() * (kept == 0).float()
            _, order = torch.sort(promise.reshape(-1), descending=True)
            kept.reshape(-1)[order[:grown]] = 1.0
            found[name] = kept
        return found


class RiglTorch:
    """Masks as bools, applied to gradient, momentum and weight; updates by two full rankings and scatters."""

    def __init__(self, net: SparseModel) -> None:
        self.params = net.params
        self.masks = {name: net.mask(name).clone() for name in net.params}

    @torch.no_grad()
    def before_step(self, optimizer: Optimizer) -> None:
        """Multiply the gradients."""
        for name, mask in self.masks.items():
            gradient = self.params[name].grad
            if gradient is not None:
                gradient *= mask

    @torch.no_grad()
    def after_step(self, optimizer: Optimizer) -> None:
        """Multiply momentum and weights."""
        for name, mask in self.masks.items():
            parameter = self.params[name]
            momentum = optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                momentum *= mask
            parameter *= mask

    @torch.no_grad()
    def update(self, gradients: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
        """Return new masks: two complete rankings of each layer, each scattered back to positions."""
        found: dict[str, Tensor] = {}
        for name, mask in self.masks.items():
            flat = mask.reshape(-1)
            active, total = int(flat.sum().item()), flat.numel()
            dropped = int(share * active)
            kept = _ranked(self.params[name].abs() * mask, active - dropped)
            promise = gradients[name].abs().reshape(-1)
            promise = torch.where(kept, torch.full_like(promise, -1.0), promise)
            found[name] = (kept | _ranked(promise, dropped)).reshape(mask.shape)
            assert total == found[name].numel()
        return found


PEERS: dict[str, Callable[[SparseModel], Itop | RiglTorch]] = {"itop": Itop, "rigl_torch": RiglTorch}
"""Name -> pattern."""


def _ranked(scores: Tensor, count: int) -> Tensor:
    flat = scores.reshape(-1)
    _, order = torch.topk(flat, k=flat.numel())
    chosen = (torch.arange(flat.numel(), device=flat.device) < count).to(flat.dtype)
    return torch.zeros_like(flat).scatter(0, order, chosen).bool()
