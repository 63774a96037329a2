"""Deep rewiring: a random walk in the space of networks with a fixed number of connections (Bellec et al. 2018)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsebench.methods.base import Clock, Probe
from sparsebench.methods.dynamic import SET
from sparsebench.sparse.model import SparseModel


@dataclass(frozen=True, kw_only=True)
class DeepR(SET):
    """Let connections walk at random; replace those whose weight changes its sign (Bellec et al. 2018, algorithm 1).

    Each step moves the active weights by ``-lr * l1 * sign(w)`` and by noise of deviation ``sqrt(2 * lr * T)`` beside
    the optimizer's step. A connection dies when its weight crosses zero; as many grow at random in the same layer, at
    zero, elsewhere while there is room. A unit of several weights dies when ``sum(sign * w)`` over its members falls
    below zero.

    Args:
        l1: strength of the pull to zero.
        temperatures: T, one for each stage.
        cools_at: fractions of the budget at which the next stage begins.
        fixed_signs: True draws the sign of a new connection, as the original; False lets it take the sign of its
            first move, as the comparison of Mostafa & Wang 2019 does.
    """

    paper: ClassVar[str] = "deep_r"

    l1: float = 1e-5
    temperatures: Sequence[float] = (1e-5, 1e-8, 1e-12, 1e-15)
    cools_at: Sequence[float] = (0.125, 0.4, 0.7)
    fixed_signs: bool = False
    every: float = 1
    until: float = 1.0
    exclude_dropped: bool = True
    regrown_keeps_value: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.l1 < 0 or min(self.temperatures) < 0 or len(self.temperatures) != len(self.cools_at) + 1:
            raise ValueError(
                f"deep_r with l1={self.l1:g}, {len(self.temperatures)} temperatures and {len(self.cools_at)} moments "
                f"cools_at: l1 and temperatures must be >= 0, and there is one temperature more than moments"
            )

    def start(self, net: SparseModel, probe: Probe) -> None:
        """Draw random masks; connections begin with the sign of their weight."""
        super().start(net, probe)
        net.memory["sign"] = {name: _sign(net.params[name]) for name in net.masks}

    def after_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Walk, then replace the dead."""
        self.walk_(net, clock, optimizer)
        super().after_step(net, clock, optimizer)

    @torch.no_grad()
    def walk_(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Add pull and noise to the active weights of every layer."""
        temperature = self.temperatures[sum(clock.step > round(at * clock.total) for at in self.cools_at)]
        rates = {id(p): float(group["lr"]) for group in optimizer.param_groups for p in group["params"]}
        for name, mask in net.masks.items():
            parameter = net.params[name]
            rate, weights = rates.get(id(parameter), 0.0), parameter[mask]
            noise = torch.randn(weights.shape, generator=net.generator("walk", clock.step, name))
            moved = weights - rate * self.l1 * weights.sign()
            moved += math.sqrt(2 * rate * temperature) * noise.to(weights)
            parameter[mask] = moved

    @torch.no_grad()
    def rewire(self, net: SparseModel, clock: Clock, optimizer: Optimizer | None) -> None:
        """Give every connection its sign, and replace the dead if there are any."""
        for name, sign in net.memory["sign"].items():
            new = _sign(net.params[name])
            if self.fixed_signs:
                draw = torch.rand(sign.shape, generator=net.generator("sign", clock.step, name))
                new = torch.where(draw < 0.5, -1, 1).to(sign)
            net.memory["sign"][name] = torch.where(net.masks[name], torch.where(sign == 0, new, sign), 0)
        if any(bool((sign * net.params[name] < 0).any()) for name, sign in net.memory["sign"].items()):
            super().rewire(net, clock, optimizer)

    def drop(self, net: SparseModel, clock: Clock, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the connections that are alive, and forget the signs of the others."""
        kept: dict[str, Tensor] = {}
        for name, mask in net.masks.items():
            sign = net.memory["sign"][name]
            kept[name] = self.pattern.keep_above(mask, sign * net.params[name], 0.0)
            net.memory["sign"][name] = torch.where(kept[name], sign, 0)
        return kept


def _sign(weights: Tensor) -> Tensor:
    return weights.detach().sign().to(torch.int8)
