"""Dynamic sparse training with trainable thresholds: one per neuron, applied as a step instead of a shrinkage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsebench.cost.passes import SPARSE, SPARSE_DENSE_WEIGHT, Passes
from sparsebench.functional.estimate import long_tailed_step
from sparsebench.methods.base import Clock, Objective
from sparsebench.methods.reparameterised import STR
from sparsebench.sparse.model import SparseModel


@dataclass(frozen=True, kw_only=True)
class TrainableThresholds(STR):
    """Learn a threshold per neuron, below which its weights are masked (Liu et al. 2020).

    The network uses ``w`` where ``|w| > t`` and 0 elsewhere; the step passes a long-tailed gradient to the threshold t
    and to every weight, so that pruned weights keep moving and may return. The penalty ``penalty * sum exp(-t)`` over
    all thresholds is added to the loss and raises them. The resulting sparsity depends on the penalty and cannot be set
    directly; as for ``STR``, the weights with the largest margins ``|w| - t`` are kept at ``topk_at``, as many as the
    budget allows.

    Args:
        initial: initial value of every t.
        penalty: strength of the penalty (alpha): 5e-4 for LeNets, 5e-6 for VGG-16 and wide residual networks.
        reset_at: a layer that keeps at most this share of its weights starts again with thresholds of zero.
    """

    paper: ClassVar[str] = "dst_thresholds"
    exceptions: ClassVar[Mapping[str, str]] = {
        "growth": "pruned weights are trained too, and return with the value that they have reached",
    }

    initial: float = 0.0
    penalty: float = 5e-4
    reset_at: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.penalty < 0 or not 0 <= self.reset_at < 1:
            raise ValueError(
                f"penalty={self.penalty:g}, reset_at={self.reset_at:g}: penalty >= 0 and reset_at in [0, 1) are needed"
            )

    # -- learned parameters --------------------------------------------------------------------------------------------

    def learned(self, net: SparseModel) -> dict[str, Tensor]:
        """Return the first thresholds: one for each row of a parameter, its output neurons or channels."""
        return {name: torch.full((len(p),), self.initial) for name, p in net.params.items()}

    def thresholds(self, net: SparseModel) -> dict[str, Tensor]:
        """Return the thresholds of each layer, in a shape that broadcasts over its weights."""
        return {name: t.reshape(-1, *[1] * (net.params[name].dim() - 1)) for name, t in net.learned.items()}

    def view(self, net: SparseModel) -> dict[str, Tensor]:
        """Return the weights above their thresholds, or plain masked ones once the masks are fixed."""
        if self._fixed(net):
            return net.masked()
        return {n: net.params[n] * long_tailed_step(net.params[n].abs() - t) for n, t in self.thresholds(net).items()}

    def loss(self, net: SparseModel, objective: Objective) -> Tensor:
        """Return the loss of the thresholded network plus the penalty on small thresholds."""
        if self._fixed(net):
            return super().loss(net, objective)
        small = torch.stack([torch.exp(-t).sum() for t in net.learned.values()])
        return super().loss(net, objective) + self.penalty * small.sum()

    # -- schedule ------------------------------------------------------------------------------------------------------

    def after_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Reset the thresholds of almost empty layers; measure or fix the support on schedule."""
        if not self._fixed(net):
            self._reset(net)
        super().after_step(net, clock, optimizer)

    @torch.no_grad()
    def _reset(self, net: SparseModel) -> None:
        for name, margin in self.margins(net).items():
            share = (margin > 0).double().mean()
            net.learned[name].copy_(torch.where(share > self.reset_at, net.learned[name], 0.0))

    def passes(self, net: SparseModel, clock: Clock) -> Passes:
        """Forward and input gradient are sparse; every weight needs its gradient until the masks are fixed."""
        del clock
        return SPARSE if self._fixed(net) else SPARSE_DENSE_WEIGHT
