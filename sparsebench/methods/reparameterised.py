"""Sparsity by reparametrisation: the network uses a function of dense weights that is often zero.

STR (soft threshold reparameterisation) subtracts a learned threshold; SR-STE (sparse-refined straight-through
estimator) keeps the largest and passes the gradient straight through to all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsebench.cost.passes import SPARSE_DENSE_WEIGHT, Passes
from sparsebench.functional.counts import global_budget
from sparsebench.functional.distribution import uniform
from sparsebench.functional.estimate import straight_through
from sparsebench.functional.prox import soft_threshold
from sparsebench.functional.score import magnitude
from sparsebench.methods.arguments import require_learned
from sparsebench.methods.base import Clock, Distribution, Masked, Probe
from sparsebench.sparse.model import SparseModel


@dataclass(frozen=True, kw_only=True)
class STR(Masked):
    """Learn a threshold per layer, and shrink the weights by it (Kusupati et al. 2020).

    The network uses ``sign(w) max(|w| - sigmoid(a), 0)``. The parameter a starts far below zero; weight decay pulls it
    towards zero and so raises the threshold, against the gradient of the loss. The resulting sparsity depends on decay,
    initial value and length of training, and cannot be set directly. To reach a given budget, at ``topk_at`` the
    shrunken weights replace the weights, the weights with the largest margins ``|w| - sigmoid(a)`` are kept, exactly as
    many as the budget allows, and training continues with fixed masks and without thresholds. Until then, masks only
    record which weights the network uses.

    Args:
        initial: initial value of every a; the more negative, the longer the weights stay dense.
        threshold_decay: weight decay of a; by default the optimizer's, as for the weights.
        threshold_lr: learning rate of a; by default the optimizer's.
        every: steps between measurements of the support (a fraction of the budget when below 1).
        topk_at: moment at which the budget is reached, as a fraction of training; None leaves the sparsity to the
            thresholds, as published, and ignores the budget.
    """

    paper: ClassVar[str] = "str"
    budget_holds: ClassVar[str] = "end"
    zeros: ClassVar[str] = "computed"
    exceptions: ClassVar[Mapping[str, str]] = {
        "growth": "a weight returns when the threshold falls below its magnitude: from zero, but with its momentum",
    }

    distribution: Distribution = global_budget
    initial: float = -100.0
    threshold_decay: float | None = None
    threshold_lr: float | None = None
    every: float = 100
    topk_at: float | None = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every <= 0 or (self.topk_at is not None and not 0 < self.topk_at <= 1):
            raise ValueError(
                f"every={self.every:g}, topk_at={self.topk_at}: every must be > 0, and topk_at in (0, 1] or null"
            )

    def promised(self, net: SparseModel) -> int | None:
        """Return the budget, or None if the thresholds decide."""
        return None if self.topk_at is None else super().promised(net)

    # -- learned parameters --------------------------------------------------------------------------------------------

    def learned(self, net: SparseModel) -> dict[str, Tensor]:
        """Return the initial parameter of each layer's threshold."""
        return {name: torch.tensor(self.initial) for name in net.params}

    def learned_options(self) -> dict[str, Any]:
        """Return weight decay and learning rate of the thresholds if they differ from the optimizer's."""
        options = {"weight_decay": self.threshold_decay, "lr": self.threshold_lr}
        return {key: value for key, value in options.items() if value is not None}

    def thresholds(self, net: SparseModel) -> dict[str, Tensor]:
        """Return the threshold of each layer, scalars."""
        return {name: torch.sigmoid(a) for name, a in net.learned.items()}

    def view(self, net: SparseModel) -> dict[str, Tensor]:
        """Return the shrunken weights, or plain masked ones once the masks are fixed."""
        if self._fixed(net):
            return net.masked()
        return {name: soft_threshold(net.params[name], threshold) for name, threshold in self.thresholds(net).items()}

    # -- when -------------------------------------------------------------------------------------------------------

    def start(self, net: SparseModel, probe: Probe) -> None:
        """Raise an error for an impossible budget; measure the first support."""
        require_learned(self, net)
        super().start(net, probe)
        self.measure(net)

    def before_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Mask the gradients once the masks are fixed."""
        if self._fixed(net):
            super().before_step(net, clock, optimizer)

    def after_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Fix the masks at ``topk_at``; before that, measure the support on schedule."""
        if self._fixed(net):
            return
        if self.topk_at is not None and clock.step >= max(1, round(self.topk_at * clock.total)):
            self.fix(net, optimizer)
        elif clock.due(self.every):
            self.measure(net)

    def finish(self, net: SparseModel) -> None:
        """Fix the masks if training ended before ``topk_at``; store the weights that the network uses."""
        if not self._fixed(net):
            self.fix(net)
        super().finish(net)

    # -- how --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def margins(self, net: SparseModel) -> dict[str, Tensor]:
        """Return the distance of each magnitude above the threshold; positive for weights that the network uses."""
        return {name: net.params[name].abs() - threshold for name, threshold in self.thresholds(net).items()}

    def measure(self, net: SparseModel) -> None:
        """Set the masks to the weights that the network uses, without changing anything else."""
        net.set_masks({name: margin > 0 for name, margin in self.margins(net).items()}, clear=False)

    @torch.no_grad()
    def fix(self, net: SparseModel, optimizer: Optimizer | None = None) -> None:
        """Replace the weights by those that the network uses, and keep as many as the budget allows."""
        margins = self.margins(net)
        masks = (
            {n: m > 0 for n, m in margins.items()}
            if self.topk_at is None
            else self.pattern.keep(margins, self.budget(net))
        )
        for name, weight in self.view(net).items():
            net.params[name].copy_(weight)
        net.memory["threshold"] = {name: value.detach().clone() for name, value in self.thresholds(net).items()}
        net.set_masks(masks, optimizer, keep=masks)

    def _fixed(self, net: SparseModel) -> bool:
        return "threshold" in net.memory


@dataclass(frozen=True, kw_only=True)
class SRSTE(Masked):
    """Keep the largest magnitudes, pass the gradient to all weights, and decay the others (Zhou et al. 2021).

    The update is ``w <- w - lr (g + decay * (1 - m) w)``: m is the mask of the current weights, and g is the gradient
    at ``m w``, used in place of the gradient at w (straight through). The extra decay of pruned weights keeps the mask
    from swinging back and forth.

    Args:
        decay: strength of the extra decay; 0 is the plain straight-through estimator.
        every: steps between masks (a fraction of the budget when below 1).
    """

    paper: ClassVar[str] = "nm_sparsity"
    budget_holds: ClassVar[str] = "always"
    zeros: ClassVar[str] = "computed"
    exceptions: ClassVar[Mapping[str, str]] = {
        "growth": "pruned weights are trained too, and return with the value that they have reached",
    }

    distribution: Distribution = uniform
    decay: float = 2e-4
    every: float = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decay < 0 or self.every <= 0:
            raise ValueError(f"decay={self.decay:g}, every={self.every:g}: decay >= 0 and every > 0 are needed")

    def start(self, net: SparseModel, probe: Probe) -> None:
        """Choose the masks of the initial weights."""
        del probe
        self.choose(net)

    def choose(self, net: SparseModel) -> None:
        """Choose the masks of the current weights by magnitude."""
        net.set_masks(self.pattern.keep(magnitude(net.params), self.budget(net)), clear=False)

    def view(self, net: SparseModel) -> dict[str, Tensor]:
        """Return the weights within the masks, with the gradient passed to all weights."""
        return {name: straight_through(weight, net.params[name]) for name, weight in net.masked().items()}

    @torch.no_grad()
    def before_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Add the extra decay of the weights outside the masks."""
        del clock, optimizer
        for name, parameter in net.params.items():
            if parameter.grad is not None:
                parameter.grad.add_(parameter.masked_fill(net.masks[name], 0.0), alpha=self.decay)

    def after_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Choose the masks on schedule."""
        del optimizer
        if clock.due(self.every):
            self.choose(net)

    def passes(self, net: SparseModel, clock: Clock) -> Passes:
        """Forward and input gradient are sparse; every weight needs its gradient."""
        del net, clock
        return SPARSE_DENSE_WEIGHT
