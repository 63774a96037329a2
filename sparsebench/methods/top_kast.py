"""Top-KAST: sparse forward and backward passes throughout training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsebench.cost.passes import Passes
from sparsebench.functional.distribution import uniform
from sparsebench.functional.estimate import straight_through
from sparsebench.functional.score import magnitude
from sparsebench.methods.base import Clock, Distribution, Masked, Probe
from sparsebench.sparse.model import SparseModel


@dataclass(frozen=True, kw_only=True)
class TopKAST(Masked):
    """Compute with the largest weights A, and update the larger set B that contains them (Jayakumar et al. 2020).

    In each layer, A is the share ``density`` of weights with the largest magnitudes, and the network computes with A
    alone. Gradients are taken in this sparse network, and only the weights in B, the share ``backward_density`` with
    the largest magnitudes, receive them; all others keep their values. A penalty pulls the weights towards zero:
    ``penalty / 2 * (sum over A of w^2 + 1 / density * sum over B outside A of w^2)``, so that weights outside A are
    penalised more.

    Args:
        backward_density: share of the weights in B; by default twice the density of A, at most 1.
        penalty: strength of the penalty; it comes on top of the optimizer's weight decay, which touches B only.
        every: steps between choices of A and B (a fraction of the budget when below 1).
    """

    paper: ClassVar[str] = "top_kast"
    budget_holds: ClassVar[str] = "always"
    zeros: ClassVar[str] = "computed"
    exceptions: ClassVar[Mapping[str, str]] = {
        "growth": "a weight that enters the forward set keeps the value that it had or learned outside it",
    }

    distribution: Distribution = uniform
    backward_density: float | None = None
    penalty: float = 1e-4
    every: float = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.density <= self.outer_density <= 1:
            raise ValueError(
                f"backward_density {self.outer_density:g} is impossible: the updated weights include those of the "
                f"forward pass, choose from {self.density:g} to 1"
            )
        if self.penalty < 0 or self.every <= 0:
            raise ValueError(f"penalty={self.penalty:g}, every={self.every:g}: penalty >= 0 and every > 0 are needed")

    @property
    def outer_density(self) -> float:
        """Share of the weights in B."""
        return min(1.0, 2 * self.density) if self.backward_density is None else self.backward_density

    def start(self, net: SparseModel, probe: Probe) -> None:
        """Choose A and B from the initial weights."""
        del probe
        self.choose(net)

    def choose(self, net: SparseModel) -> None:
        """Choose A and B by the current magnitudes."""
        magnitudes = magnitude(net.params)
        inner = self.pattern.keep(magnitudes, self.budget(net))
        outer = self.pattern.keep(magnitudes, self.budget(net, self.outer_density))
        # The union covers the case that rounding gives a layer one weight less in the larger budget.
        net.memory["backward"] = {name: mask | inner[name] for name, mask in outer.items()}
        net.set_masks(inner, clear=False)

    def view(self, net: SparseModel) -> dict[str, Tensor]:
        """Return the weights of A, with the gradient passed to B."""
        outer = net.memory["backward"]
        inner = net.masked()
        return {n: straight_through(inner[n], torch.where(outer[n], p, 0.0)) for n, p in net.params.items()}

    @torch.no_grad()
    def before_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Add the gradient of the penalty; store the weights outside B, which the step must not move."""
        del clock, optimizer
        for name, parameter in net.params.items():
            if parameter.grad is not None:
                parameter.grad += self.penalty * self.pull(net, name) * parameter
        net.memory["before"] = {name: p.detach().clone() for name, p in net.params.items()}

    @torch.no_grad()
    def after_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Undo the effect of decay and momentum outside B; choose A and B on schedule."""
        del optimizer
        for name, before in net.memory.pop("before").items():
            parameter = net.params[name]
            parameter.copy_(torch.where(net.memory["backward"][name], parameter, before))
        if clock.due(self.every):
            self.choose(net)

    def pull(self, net: SparseModel, name: str) -> Tensor:
        """Return the factor of the penalty for each weight: 1 in A, 1 / density in B outside A, 0 elsewhere."""
        outer = net.memory["backward"][name].to(net.params[name].dtype)
        return torch.where(net.masks[name], 1.0, outer / self.density)

    def passes(self, net: SparseModel, clock: Clock) -> Passes:
        """Forward and input gradient multiply by A; the weight gradient is needed in B."""
        del clock
        counts = net.remembered("backward")
        return Passes(weight=({name: count / net.params[name].numel() for name, count in counts.items()},))
