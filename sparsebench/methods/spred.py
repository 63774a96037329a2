"""Weights as products of two factors: weight decay on the factors is an L1 penalty on the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsebench.methods.arguments import require_learned
from sparsebench.methods.base import Clock, Objective, Probe
from sparsebench.methods.computed_weights import ComputedWeights
from sparsebench.sparse.model import SparseModel


def factors(weight: Tensor, balance: float) -> tuple[Tensor, Tensor]:
    """Return m and u with ``m u = weight`` and ``m^2 - u^2 = balance``, m being 0 or more.

    Args:
        weight: any shape; both results have it.
        balance: 0 or more; 0 gives factors of equal magnitude.
    """
    m = ((balance + (balance**2 + 4 * weight**2).sqrt()) / 2).sqrt()
    return m, torch.where(m > 0, weight / m, 0.0)


@dataclass(frozen=True, kw_only=True)
class Factored(ComputedWeights):
    """Train two factors of each weight, ``w = m u``; the base of ``Spred``, ``PILoT`` and ``SignIn``.

    Attributes:
        balance: ``m^2 - u^2`` at the start. Gradient descent preserves it, up to decay and step size.
    """

    balance: ClassVar[float] = 0.0

    def learned(self, net: SparseModel) -> dict[str, Tensor]:
        """Return the initial second factor of each weight."""
        return {name: torch.zeros_like(p.detach()) for name, p in net.params.items()}

    def learned_options(self) -> dict[str, Any]:
        """Return an option that tells ``optim.ham`` to skip second factors."""
        return {"hyperbolic": True}

    def start(self, net: SparseModel, probe: Probe) -> None:
        """Raise an error for an impossible budget; factor the initial weights."""
        require_learned(self, net)
        super().start(net, probe)

    def computed(self, net: SparseModel) -> Mapping[str, Tensor]:
        """Return the products."""
        return {name: net.learned[name] * u for name, u in net.params.items()}

    def encode(self, net: SparseModel) -> None:
        """Factor the weights, at the balance of the method."""
        for name, weight in net.params.items():
            m, u = factors(weight, self.balance)
            net.learned[name].copy_(m)
            weight.copy_(u)


@dataclass(frozen=True, kw_only=True)
class Spred(Factored):
    """Minimise the loss with an L1 penalty by weight decay on two factors of each weight (Ziyin & Wang 2023).

    The network uses ``w = m u``, and ``strength * sum (m^2 + u^2)`` is added to the loss. For a given w the sum is
    smallest at |m| = |u|, where it equals ``2 |w|``: gradient descent on the factors solves the L1 problem without a
    kink. Factors start with equal magnitude.

    Args:
        strength: strength of the penalty; the equivalent L1 penalty is twice as strong.
    """

    paper: ClassVar[str] = "spred"

    strength: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.strength < 0:
            raise ValueError(f"strength={self.strength:g} is impossible: choose 0 or more, such as 1e-4")

    def present_strength(self, net: SparseModel) -> Tensor | float:
        """Return the current strength of the penalty."""
        del net
        return self.strength

    def loss(self, net: SparseModel, objective: Objective) -> Tensor:
        """Return the loss plus the penalty on both factors, until the weights are final."""
        loss = super().loss(net, objective)
        return loss if "final" in net.memory else loss + self.penalty(net)

    def penalty(self, net: SparseModel) -> Tensor:
        """Return the sum of the squares of all factors, times the current strength."""
        squares = torch.stack([(p**2).sum() + (net.learned[n] ** 2).sum() for n, p in net.params.items()])
        return self.present_strength(net) * squares.sum()


@dataclass(frozen=True, kw_only=True)
class PILoT(Spred):
    """Sparsify by two factors of each weight, with a controlled penalty and a start that allows sign changes.

    Factors ``w = m u`` start at ``m^2 - u^2 = 1``, and the penalty ``alpha sum (m^2 + u^2)`` is controlled: at the end
    of each period alpha is multiplied by ``rise`` if the training loss has not risen since the previous period,
    ``sum |w|`` is at least ``least_norm``, and the first half of training is not over; otherwise it is divided by
    ``rise``. An early penalty thus turns into an implicit bias towards small L1 norms that stays when the penalty
    fades. Source: Jacobs & Burkholz 2025 (arXiv 2408.09966), algorithm 1, which uses the training accuracy instead of
    the loss.

    Args:
        rise: factor of alpha (delta), at least 1.
        least_norm: sum of |w| below which the penalty fades (K).
        every: steps of a period, an epoch in the paper (a fraction of the budget when below 1).
    """

    paper: ClassVar[str] = "pilot"
    balance: ClassVar[float] = 1.0
    METER: ClassVar[str] = "training loss"

    rise: float = 1.01
    least_norm: float = 0.0
    every: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rise >= 1 or self.least_norm < 0 or self.every <= 0:
            raise ValueError(
                f"rise={self.rise:g}, least_norm={self.least_norm:g}, every={self.every:g}: "
                f"rise >= 1, least_norm >= 0 and every > 0 are needed"
            )

    def learned(self, net: SparseModel) -> dict[str, Tensor]:
        """Return the initial second factors, and a zero whose gradient is the loss.

        Gradients are averaged over ranks and micro-batches, and so is the loss that the control uses.
        """
        return {**super().learned(net), self.METER: torch.zeros(())}

    def start(self, net: SparseModel, probe: Probe) -> None:
        """Factor the initial weights; begin with the given strength."""
        super().start(net, probe)
        device = next(iter(net.params.values())).device
        start = {"alpha": self.strength, "loss": 0.0, "steps": 0.0, "before": torch.inf}
        net.memory["control"] = {name: torch.tensor(value, device=device) for name, value in start.items()}

    def present_strength(self, net: SparseModel) -> Tensor | float:
        """Return the controlled strength alpha."""
        return net.memory["control"]["alpha"]

    def loss(self, net: SparseModel, objective: Objective) -> Tensor:
        """Return the penalised loss; the gradient of the meter is the loss without the penalty."""
        loss = Factored.loss(self, net, objective)
        if "final" in net.memory:
            return loss
        return loss + self.penalty(net) + net.learned[self.METER] * loss.detach()

    def before_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Read the meter, and clear its gradient so that it is not trained."""
        meter, control = net.learned[self.METER], net.memory["control"]
        if meter.grad is not None:
            control["loss"] = control["loss"] + meter.grad.detach()
            control["steps"] = control["steps"] + 1
            meter.grad = None
        super().before_step(net, clock, optimizer)

    def after_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Control alpha at the end of a period; prune at ``topk_at``."""
        if "final" not in net.memory and clock.due(self.every):
            self.control(net, clock)
        super().after_step(net, clock, optimizer)

    @torch.no_grad()
    def control(self, net: SparseModel, clock: Clock) -> None:
        """Raise alpha while the loss allows it in the first half of training; lower it otherwise."""
        control = net.memory["control"]
        mean = control["loss"] / control["steps"].clamp(min=1)
        norm = torch.stack([(net.learned[n] * u).abs().sum() for n, u in net.params.items()]).sum()
        rises = (mean <= control["before"]) & (norm >= self.least_norm) & (2 * clock.step <= clock.total)
        control["alpha"] = control["alpha"] * torch.where(rises, self.rise, 1 / self.rise)
        control["before"], control["loss"], control["steps"] = mean, torch.zeros_like(mean), torch.zeros_like(mean)
