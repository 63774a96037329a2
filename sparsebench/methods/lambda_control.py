"""Control of lambda, the strength of a regulariser: constant, or steered to a density.

The timing matters: when lambda changes, no dual may have moved since the optimizer's last full step. Controllers act
just before a step that moves all duals, and the quantile rule just after one, so that nothing moves in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsebench.functional.schedule import cubic
from sparsebench.methods.base import Clock, Method
from sparsebench.optim import quantile_lambda
from sparsebench.optim.base import DualOptimizer, Policy
from sparsebench.sparse.model import SparseModel
from sparsebench.sparse.tensors import whole_numbers

Control = Literal["constant", "additive", "multiplicative", "quantile"]

LOWEST, HIGHEST = 1e-6, 1e3
"""Range of lambda under the multiplicative controller, which could not leave zero."""
CALMING = 0.95
"""Factor on the gain each time the multiplicative controller overshoots."""


@dataclass(frozen=True, kw_only=True)
class LambdaControlled(Method):
    """Base class of methods whose sparsity results from a regulariser; by default lambda is constant.

    Args:
        control: ``constant``; ``additive``: lambda rises by ``increment`` while the network is too dense, and falls
            otherwise; ``multiplicative``: by the factor 1 + gain * |density - target|, the gain shrinking with each
            overshoot; ``quantile``: lambda is set such that exactly the wanted number of units stays.
        density: target of the control; required unless ``control`` is constant, and refused if it is.
        control_every: steps between two actions (a fraction of the budget when below 1).
        increment: step of the additive controller.
        gain: initial gain of the multiplicative controller.
        ramp: share of the budget over which the target moves from the initial density to ``density`` (cubic).
        on_lambda_change: ``keep`` the duals (weights jump), ``reset`` the duals from the weights, or ``shift`` the
            active duals with lambda (weights stay).

    Source: additive: code of Bungert et al. 2022; multiplicative and quantile: later users of Bregman training, with
    the quantile rule corrected by one unit.
    """

    control: Control = "constant"
    density: float | None = None
    control_every: float = 50
    increment: float = 0.05
    gain: float = 0.25
    ramp: float = 0.0
    on_lambda_change: Policy = "keep"

    def __post_init__(self) -> None:
        for key, choices in (("control", get_args(Control)), ("on_lambda_change", get_args(Policy))):
            if getattr(self, key) not in choices:
                raise ValueError(f"{key}={getattr(self, key)} is unknown: choose {', '.join(choices)}")
        if (self.density is None) != (self.control == "constant"):
            raise ValueError(
                f"control={self.control} with density={self.density}: a constant lambda has no target density, every "
                f"other control needs one (above 0, at most 1)"
            )
        if self.density is not None and not 0 < self.density <= 1:
            raise ValueError(f"density {self.density:g} is impossible: choose a sparsity of at least 0 and below 1")
        if self.control_every <= 0 or self.increment <= 0 or self.gain <= 0 or not 0 <= self.ramp <= 1:
            raise ValueError(
                f"control_every={self.control_every:g}, increment={self.increment:g}, gain={self.gain:g}, "
                f"ramp={self.ramp:g}: the first three must be above 0, ramp a share of the budget in [0, 1]"
            )
        if self.control == "quantile" and self.on_lambda_change != "keep":
            raise ValueError(
                f"on_lambda_change={self.on_lambda_change} does not change the weights, so that control=quantile could "
                f"not remove any: choose keep"
            )

    @property
    def first_density(self) -> float:
        """Density at which a ramp begins."""
        return 1.0

    def targets(self, clock: Clock) -> dict[str, float]:
        """Return the sparsity that control aims at, if any."""
        aims = {} if self.density is None else {"sparsity_target": 1 - self.density}
        return {**super().targets(clock), **aims}

    def target(self, clock: Clock) -> float:
        """Return the density wanted at this time."""
        assert self.density is not None
        return cubic(self.first_density, self.density, clock.between(0.0, self.ramp))

    def steer(self, net: SparseModel, clock: Clock, optimizer: Optimizer, *, period: int = 1) -> None:
        """Run the controller just before a step that moves all duals, which happens once per ``period``."""
        if self.control not in ("additive", "multiplicative") or not self._is_due(clock, period):
            return
        gap = measure_density(net) - self.target(clock)
        lam = present_lambda(optimizer)
        if self.control == "additive":
            lam = max(0.0, lam + (self.increment if gap > 0 else -self.increment))
        else:
            factor = 1.0 + self._calmed_gain(net, gap) * abs(gap)
            lam = min(HIGHEST, max(LOWEST, lam * factor if gap > 0 else lam / factor))
        change_lambda(optimizer, lam, self.on_lambda_change)

    def meet(self, net: SparseModel, clock: Clock, optimizer: Optimizer, *, period: int = 1) -> bool:
        """Apply the quantile rule just after a step that moved all duals; return whether it was applied.

        The number of non-zero units (entries for l1) is then exact. The rule always acts after the last step.
        """
        last = clock.step == clock.total
        if self.control != "quantile" or not (last or self._is_due(clock, period)):
            return False
        optimizer = cast(DualOptimizer, optimizer)
        with torch.no_grad():
            measured = optimizer.measure_duals()
            kept = round(self.target(clock) * sum(units.numel() for units in measured))
            del net
            optimizer.set_lambda(quantile_lambda(measured, kept), self.on_lambda_change)
        return True

    def _is_due(self, clock: Clock, period: int) -> bool:
        """Return True if a multiple of ``control_every`` lies within the last ``period`` steps."""
        every = clock.steps(self.control_every)
        return clock.step // every > max(0, clock.step - period) // every

    def _calmed_gain(self, net: SparseModel, gap: float) -> float:
        """Return the gain, reduced each time the gap changes its sign; store gap and gain."""
        memory = net.memory.setdefault("lambda_control", {})
        overshoots = int(memory.get("overshoots", torch.zeros(())))
        sign = (gap > 0) - (gap < 0)
        before = int(memory.get("sign", torch.zeros(())))
        overshoots += sign * before < 0
        memory["overshoots"] = torch.tensor(float(overshoots))
        memory["sign"] = torch.tensor(float(sign or before))
        return self.gain * CALMING ** max(0, overshoots - 1)


@torch.no_grad()
def measure_density(net: SparseModel) -> float:
    """Return the current share of non-zero weights over all weights that may be sparse."""
    found: dict[str, Tensor] = {name: p.count_nonzero() for name, p in net.params.items()}
    return sum(whole_numbers(found).values()) / sum(p.numel() for p in net.params.values())


def present_lambda(optimizer: Optimizer) -> float:
    """Return lambda of the regularised groups of an optimizer."""
    return next(group["lam"] for group in optimizer.param_groups if group["regularizer"] is not None)


def change_lambda(optimizer: Optimizer, lam: float, policy: Policy) -> None:
    """Set lambda in every regularised group, and adjust duals or weights."""
    if isinstance(optimizer, DualOptimizer):
        optimizer.set_lambda(lam, policy)
        return
    for group in optimizer.param_groups:
        if group["regularizer"] is not None:
            group["lam"] = lam
