"""CrAM: dense training that also lowers the loss of the pruned network."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsebench.cost.passes import SPARSE, Passes
from sparsebench.functional.counts import global_budget
from sparsebench.functional.estimate import straight_through
from sparsebench.methods.base import Clock, Distribution, Masked, Objective, Probe
from sparsebench.methods.evaluation import batch_statistics
from sparsebench.sparse.model import SparseModel, whole_numbers


@dataclass(frozen=True, kw_only=True)
class CrAM(Masked):
    """Train a dense network that can be pruned in one shot to any sparsity (Peste et al. 2023, CrAM+).

    With g the gradient at the weights w, a step takes ``g + g'``: g' is the gradient at the largest weights of
    ``w + rho g`` that a sparsity drawn for each step keeps. Only the part of g' at these weights counts. Batch norms
    learn their running statistics from the dense network. After the last step the largest weights are kept, as many as
    the budget allows; at density 1 all are kept, and ``recipe=oneshot`` prunes the run later, with fresh statistics.

    Args:
        rho: length of the step uphill, in units of the gradient.
        sparsities: values from which one is drawn for each step.
        plus: whether g counts; False is CrAM without the plus.
        sparse_gradient: whether g' counts only for the weights that it was computed with.
    """

    paper: ClassVar[str] = "cram"
    budget_holds: ClassVar[str] = "end"

    distribution: Distribution = global_budget
    rho: float = 0.05
    sparsities: Sequence[float] = (0.5, 0.7, 0.9)
    plus: bool = True
    sparse_gradient: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rho < 0 or not self.sparsities or not all(0 <= share < 1 for share in self.sparsities):
            raise ValueError(
                f"rho={self.rho:g}, sparsities={list(self.sparsities)}: rho >= 0 and one sparsity or more in [0, 1) "
                f"are needed"
            )

    # -- the two losses -----------------------------------------------------------------------------------------------

    def loss(self, net: SparseModel, objective: Objective) -> Tensor:
        """Return the loss of the dense network plus the pruned one's loss uphill; after pruning, only the first."""
        if "final" in net.memory:
            return super().loss(net, objective)
        clean = super().loss(net, objective)
        weights = self.weights(net)
        slopes = torch.autograd.grad(
            clean, list(weights.values()), retain_graph=self.plus, allow_unused=True, materialize_grads=True
        )
        uphill = {n: p + self.rho * g.detach() for (n, p), g in zip(weights.items(), slopes, strict=True)}
        still = contextlib.nullcontext() if net.module is None else batch_statistics(net.module)
        with still:
            pruned = objective(uphill | self.pruned(net, uphill))
        return clean + pruned if self.plus else pruned

    def weights(self, net: SparseModel) -> Mapping[str, Tensor]:
        """Return all trained parameters of the network, or only the sparse ones if the network is not known."""
        if net.module is None:
            return net.params
        return {name: p for name, p in net.module.named_parameters() if p.requires_grad} | net.params

    def pruned(self, net: SparseModel, uphill: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the largest weights uphill, zero elsewhere; ``sparse_gradient`` decides which have a gradient."""
        density = 1 - self.sparsities[self.draw(net)]
        strength = {name: uphill[name].detach().abs() for name in net.params}
        masks = self.pattern.keep(strength, self.budget(net, density))
        net.scratch["pruned"] = masks  # no part of the state, which a step that a scaler skips must not change
        shown = {name: torch.where(mask, uphill[name], 0.0) for name, mask in masks.items()}
        return shown if self.sparse_gradient else {n: straight_through(w, uphill[n]) for n, w in shown.items()}

    def draw(self, net: SparseModel) -> int:
        """Return the index of this step's sparsity, the same for all its micro-batches and ranks."""
        step = int(net.memory["clock"]["step"])
        return int(torch.randint(len(self.sparsities), (), generator=net.generator("sparsity", step)))

    # -- when ---------------------------------------------------------------------------------------------------------

    def start(self, net: SparseModel, probe: Probe) -> None:
        """Raise an error for an impossible budget; begin dense, at step 0."""
        super().start(net, probe)
        net.memory["clock"] = {"step": torch.zeros((), dtype=torch.int64)}

    def after_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Store the step, which decides the next draw; prune after the last one."""
        net.memory["clock"] = {"step": torch.tensor(clock.step)}
        if clock.step == clock.total:
            self.prune(net, optimizer)

    def finish(self, net: SparseModel) -> None:
        """Prune if training ended early."""
        self.prune(net)

    @torch.no_grad()
    def prune(self, net: SparseModel, optimizer: Optimizer | None = None) -> None:
        """Keep the largest weights once, as many as the budget allows."""
        if "final" not in net.memory:
            net.set_masks(self.pattern.keep({n: p.abs() for n, p in net.params.items()}, self.budget(net)), optimizer)
            net.memory["final"] = {"pruned": torch.ones((), dtype=torch.bool)}

    def passes(self, net: SparseModel, clock: Clock) -> Passes:
        """Return each pass twice, for the dense and the pruned network; after pruning, one sparse pass of each."""
        del clock
        if "final" in net.memory:
            return SPARSE
        shares = self.shares(net)
        return Passes(("dense", shares), ("dense", shares), ("dense", shares if self.sparse_gradient else "dense"))

    def shares(self, net: SparseModel) -> dict[str, float]:
        """Return the density of each layer in the pruned pass; before the first one, the mean density."""
        if "pruned" not in net.scratch:
            return dict.fromkeys(net.params, 1 - sum(self.sparsities) / len(self.sparsities))
        kept = whole_numbers({name: mask.count_nonzero() for name, mask in net.scratch["pruned"].items()})
        return {name: count / net.params[name].numel() for name, count in kept.items()}
