"""Deep rewiring: a random walk in the space of networks with a fixed number of connections (Bellec et al. 2018)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsebench.methods.base import Clock, Probe
from sparsebench.methods.dynamic import SET
from sparsebench.runs.messages import check_choice
from sparsebench.sparse.model import SparseModel


@dataclass(frozen=True, kw_only=True)
class DeepR(SET):
    """Move connections at random and replace those whose weight changes sign (Bellec et al. 2018, algorithm 1).

    Each step pulls the active weights to zero and adds noise, as set by ``walk``. A connection dies when its weight
    crosses zero; as many grow from zero at random in the same layer, at other positions while there is room. A unit of
    several weights dies when ``sum(sign * w)`` over its members falls below zero. Dense layers are left alone.

    Args:
        walk: ``mostafa_wang``: pull ``l1 * sign(w)`` and noise of deviation ``sqrt(2 * eta * T)`` are added to the
            gradient, so that they pass through learning rate and momentum; the default temperatures come from that
            code. ``bellec``: the weight moves by ``-lr * l1 * sign(w)`` and by ``lr * noise`` times a normal draw, the
            constant walk of the original code. ``langevin``: the same pull with noise of deviation
            ``sqrt(2 * lr * T)``, the stochastic differential equation of the paper.
        l1: strength of the pull to zero.
        eta: constant of ``mostafa_wang``; not the learning rate.
        noise: constant of ``bellec``.
        temperatures: T, one for each stage; unused by ``bellec``.
        cools_at: fractions of the budget at which the next stage begins.
        fixed_signs: True draws the sign of a new connection at random, as in the original; False takes the sign of its
            first move, as in the comparison of Mostafa & Wang 2019.
    """

    paper: ClassVar[str] = "deep_r"

    walk: Literal["mostafa_wang", "bellec", "langevin"] = "mostafa_wang"
    l1: float = 1e-5
    eta: float = 0.01
    noise: float = 1e-5
    temperatures: Sequence[float] = (1e-5, 1e-8, 1e-12, 1e-15)
    cools_at: Sequence[float] = (0.125, 0.4, 0.7)
    fixed_signs: bool = False
    every: float = 1
    until: float = 0.95
    exclude_dropped: bool = True
    regrown_keeps_value: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("walk", self.walk, ("mostafa_wang", "bellec", "langevin"))
        least = min(self.l1, self.eta, self.noise, *self.temperatures)
        if least < 0 or len(self.temperatures) != len(self.cools_at) + 1:
            raise ValueError(
                f"deep_r with l1={self.l1:g}, eta={self.eta:g}, noise={self.noise:g}, {len(self.temperatures)} "
                f"temperatures and {len(self.cools_at)} moments cools_at: none may be below 0, and there is one "
                f"temperature more than moments"
            )

    def start(self, net: SparseModel, probe: Probe) -> None:
        """Draw random masks; each connection takes the sign of its weight."""
        super().start(net, probe)
        net.memory["sign"] = {name: _sign(net.params[name]) for name in net.masks}

    @torch.no_grad()
    def before_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Add drift and noise to the gradients if the walk uses them, then mask the gradients."""
        if self.walk == "mostafa_wang" and self._walks(clock.after):
            deviation = math.sqrt(2 * self.eta * self._temperature(clock.after))
            for name, mask in self._sparse(net):
                parameter = net.params[name]
                if parameter.grad is not None:
                    draw = self._draw(net, clock.after, name, parameter[mask])
                    parameter.grad[mask] += self.l1 * parameter[mask].sign() + deviation * draw
        super().before_step(net, clock, optimizer)

    def after_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Move the weights, then replace dead connections."""
        if self.walk != "mostafa_wang" and self._walks(clock):
            self.walk_(net, clock, optimizer)
        super().after_step(net, clock, optimizer)

    @torch.no_grad()
    def walk_(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Move the active weights of every layer by pull and noise."""
        rates = {id(p): float(group["lr"]) for group in optimizer.param_groups for p in group["params"]}
        for name, mask in self._sparse(net):
            parameter = net.params[name]
            rate, weights = rates.get(id(parameter), 0.0), parameter[mask]
            langevin = math.sqrt(2 * rate * self._temperature(clock))
            deviation = rate * self.noise if self.walk == "bellec" else langevin
            moved = weights - rate * self.l1 * weights.sign()
            parameter[mask] = moved + deviation * self._draw(net, clock, name, weights)

    def _walks(self, clock: Clock) -> bool:
        return clock.step <= round(self.until * clock.total)

    def _temperature(self, clock: Clock) -> float:
        return self.temperatures[sum(clock.step > round(at * clock.total) for at in self.cools_at)]

    @staticmethod
    def _sparse(net: SparseModel) -> list[tuple[str, Tensor]]:
        return [(name, mask) for name, mask in net.masks.items() if net.counts[name] < mask.numel()]

    @staticmethod
    def _draw(net: SparseModel, clock: Clock, name: str, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=net.generator("walk", clock.step, name)).to(like)

    @torch.no_grad()
    def rewire(self, net: SparseModel, clock: Clock, optimizer: Optimizer | None) -> None:
        """Keep every connection's sign, and replace dead connections if there are any."""
        for name, sign in net.memory["sign"].items():
            new = _sign(net.params[name])
            if self.fixed_signs:
                draw = torch.rand(sign.shape, generator=net.generator("sign", clock.step, name))
                new = torch.where(draw < 0.5, -1, 1).to(sign)
            net.memory["sign"][name] = torch.where(net.masks[name], torch.where(sign == 0, new, sign), 0)
        signs = net.memory["sign"]
        crossed = [(signs[name] * net.params[name] < 0).any() for name, _ in self._sparse(net)]
        if crossed and bool(torch.stack(crossed).any()):  # one transfer from the device for all layers
            super().rewire(net, clock, optimizer)

    def drops(self, clock: Clock) -> float | None:
        """Return None: connections die when their weights cross zero."""
        del clock

    def drop(self, net: SparseModel, clock: Clock, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the living connections, and forget the signs of the others."""
        kept: dict[str, Tensor] = {}
        for name, mask in net.masks.items():
            sign = net.memory["sign"][name]
            if net.counts[name] == mask.numel():
                kept[name] = mask
                continue
            kept[name] = self.pattern.keep_above(mask, sign * net.params[name], 0.0)
            net.memory["sign"][name] = torch.where(kept[name], sign, 0)
        return kept


def _sign(weights: Tensor) -> Tensor:
    return weights.detach().sign().to(torch.int8)
