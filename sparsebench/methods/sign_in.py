"""Sign-In: random masks whose weights are products of two factors, rebalanced so that signs can change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.optim import Optimizer

from sparsebench.cost.passes import SPARSE, Passes
from sparsebench.functional.distribution import erk
from sparsebench.methods.arguments import require_learned
from sparsebench.methods.base import Clock, Distribution, Probe
from sparsebench.methods.spred import Factored
from sparsebench.sparse.model import SparseModel


@dataclass(frozen=True, kw_only=True)
class SignIn(Factored):
    """Train two factors of each weight within random masks; restore their balance from time to time.

    The network sees ``w = m u``. From ``m^2 - u^2 = 1`` on, gradient descent on the factors moves w by
    ``-(m^2 + u^2) dL/dw = -sqrt(4 w^2 + 1) dL/dw``, which does not vanish at zero: signs change. Noise and weight decay
    wear the balance down; every ``reset_every`` steps it is restored, the weights being the same.
    Source: Gadhikar et al. 2025 (arXiv 2504.12801).

    Args:
        reset_every: steps between balances (a fraction of the budget when below 1).
        resets_until: last one, as a fraction of the budget.
    """

    paper: ClassVar[str] = "sign_in"
    budget_holds: ClassVar[str] = "always"
    exceptions: ClassVar[Mapping[str, str]] = {}
    balance: ClassVar[float] = 1.0

    distribution: Distribution = erk
    topk_at: float = 1.0
    reset_every: float = 0.05
    resets_until: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.topk_at != 1:
            raise ValueError(f"topk_at={self.topk_at:g}: Sign-In keeps its masks from the start, leave topk_at out")
        if self.reset_every <= 0 or not 0 <= self.resets_until <= 1:
            raise ValueError(
                f"reset_every={self.reset_every:g}, resets_until={self.resets_until:g}: reset_every > 0 and "
                f"resets_until in [0, 1] are needed"
            )

    @torch.no_grad()
    def start(self, net: SparseModel, probe: Probe) -> None:
        """Draw masks with exactly the budget; factor the weights within them."""
        del probe
        require_learned(self, net)
        net.set_masks(self.draw_masks(net))
        self.encode(net)

    def after_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Restore the balance on schedule, but not after the last step."""
        del optimizer
        if (
            "final" not in net.memory
            and clock.step < clock.total
            and clock.due(self.reset_every, stop=self.resets_until)
        ):
            self.restore(net)

    @torch.no_grad()
    def restore(self, net: SparseModel) -> None:
        """Factor the same weights again, at the first balance."""
        for name, weight in self.computed(net).items():
            net.params[name].copy_(weight)
        self.encode(net)

    def passes(self, net: SparseModel, clock: Clock) -> Passes:
        """Every pass multiplies by active weights only."""
        del net, clock
        return SPARSE
