"""MEST: elastic mutation of connections, strong at first, within a memory bound (Yuan et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsebench.cost.passes import SPARSE, Passes
from sparsebench.functional.counts import budget
from sparsebench.functional.distribution import uniform
from sparsebench.methods.base import Clock, Distribution, Probe
from sparsebench.methods.dynamic import SET
from sparsebench.methods.gradual import magnitudes
from sparsebench.sparse.model import SparseModel

EXTRA = (0.05, 0.025, 0.0)
"""Weights beyond the target that EM&S grows in each stage, as shares of all weights."""


@dataclass(frozen=True, kw_only=True)
class MEST(SET):
    """Elastic mutation (EM): prune to a lower density, regrow at random to the upper one.

    Importance is ``|w| + lam * |g|`` with the gradient of the step just taken. Both densities are given as multiples of
    the target, one pair for each stage; the last pair is (1, 1). At the paper's 90 %, lower sparsities of .92, .91, .90
    correspond to ``lower`` = .8, .9, 1. New weights start at zero. The first masks keep the largest initial magnitudes.

    Args:
        lam: weight of the gradient in the importance; the paper's value is not known here.
        lower: density after pruning, relative to the target, for each stage.
        upper: density after growth, relative to the target, for each stage.
        stages: fractions of the budget at which the next stage begins.
    """

    paper: ClassVar[str] = "mest"
    budget_holds: ClassVar[str] = "always"
    needs_gradient: ClassVar[bool] = True

    lam: float = 0.01
    distribution: Distribution = uniform
    lower: Sequence[float] = (0.8, 0.9, 1.0)
    upper: Sequence[float] | None = (1.0, 1.0, 1.0)
    stages: Sequence[float] = (0.5625, 0.75)
    every: float = 1 / 32
    until: float = 1.0
    regrown_keeps_value: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lam < 0:
            raise ValueError(f"lam={self.lam:g} is impossible: the weight of the gradient must be >= 0")
        upper = self.bounds
        pairs = list(zip(self.lower, upper, strict=False))
        staged = len(self.lower) == len(upper) == len(self.stages) + 1
        if not staged or pairs[-1] != (1, 1) or any(not 0 < low <= high for low, high in pairs):
            raise ValueError(
                f"lower={list(self.lower)}, upper={list(upper)}, stages={list(self.stages)}: give one more pair than "
                f"stages, with 0 < lower <= upper, and (1, 1) last, so that training ends on target"
            )
        if max(upper) > 1 and self.budget_holds == "always":
            raise ValueError(f"upper={list(upper)} exceeds the target: that is mest_soft (SoftMEST), not mest")

    @property
    def bounds(self) -> Sequence[float]:
        """Density after growth, relative to the target, for each stage."""
        return self.upper or ()

    def start(self, net: SparseModel, probe: Probe) -> None:
        """Keep the largest magnitudes of the initial weights."""
        del probe
        net.set_masks(self.pattern.keep(magnitudes(net), self.budget(net)))

    def passes(self, net: SparseModel, clock: Clock) -> Passes:
        """Return sparse passes only: importance needs just the gradients of active weights."""
        del net, clock
        return SPARSE

    def _due(self, clock: Clock) -> bool:
        begins = any(clock.step == max(1, round(at * clock.total)) for at in self.stages)
        return begins or super()._due(clock)

    def _stage(self, clock: Clock) -> int:
        return sum(clock.step >= max(1, round(at * clock.total)) for at in self.stages)

    def drops(self, clock: Clock) -> float | None:
        """Return None: the two densities of the stage decide."""
        del clock

    def drop_score(self, net: SparseModel, name: str, gradients: Mapping[str, Tensor]) -> Tensor:
        """Return the importance of each connection."""
        return net.params[name].abs() + self.lam * gradients[name].abs()

    def drop(self, net: SparseModel, clock: Clock, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the most important connections, down to the lower density."""
        densities = self._densities(net, self.lower[self._stage(clock)])
        lower, upper = budget(net.shapes, densities), self.sizes(net, clock, {})
        assert isinstance(lower, Mapping)
        kept: dict[str, Tensor] = {}
        for name, mask in net.masks.items():
            strength = self.drop_score(net, name, gradients)
            # prune to the upper density by the pattern, then towards the lower one as far as the pattern allows
            if upper[name] < net.counts[name]:
                mask = self.pattern.keep({name: strength.masked_fill(~mask, -1.0)}, {name: upper[name]})[name]
            kept[name] = self.pattern.prune(mask, strength, min(net.counts[name], lower[name], upper[name]))
        return kept

    def sizes(self, net: SparseModel, clock: Clock, kept: Mapping[str, Tensor]) -> Mapping[str, int]:
        """Return the active weights of each layer at the upper density."""
        del kept
        factor = self.bounds[self._stage(clock)]
        if factor == 1 and self.budget_holds == "always":
            return net.counts
        sizes = self.pattern.budget(net.shapes, self._densities(net, factor))
        assert isinstance(sizes, Mapping)
        return sizes

    def _densities(self, net: SparseModel, factor: float) -> Mapping[str, float]:
        density = min(1.0, factor * self.density)
        densities = self.distribution(net.shapes, density)
        return densities if isinstance(densities, Mapping) else dict.fromkeys(net.shapes, density)


@dataclass(frozen=True, kw_only=True)
class SoftMEST(MEST):
    """Elastic mutation with a soft memory bound (EM&S): grow past the target, and prune back to it.

    Between updates the network is denser than the target, so that old and new weights compete.

    Args:
        upper: density after growth, relative to the target, for each stage; None exceeds the target by 0.05, 0.025 and
            0 *of all weights*, as the published scripts do at 90 and at 95 %.
    """

    budget_holds: ClassVar[str] = "end"

    lower: Sequence[float] = (1.0, 1.0, 1.0)
    upper: Sequence[float] | None = None

    @property
    def bounds(self) -> Sequence[float]:
        """Density after growth, relative to the target, for each stage."""
        return self.upper or [(self.density + more) / self.density for more in EXTRA]
