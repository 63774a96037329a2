"""DSR: dynamic sparse training with one adaptive threshold for all layers (Mostafa & Wang 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsebench.functional.schedule import Schedule, constant
from sparsebench.methods.base import Clock, Probe
from sparsebench.methods.redistribution import Redistributed
from sparsebench.sparse.model import SparseModel
from sparsebench.sparse.tensors import whole_numbers


@dataclass(frozen=True, kw_only=True)
class DSR(Redistributed):
    """Dynamic sparse reparameterization: one adaptive threshold for all layers (Mostafa & Wang 2019).

    Weights below the threshold are dropped. The aim is to drop ``drop_fraction`` of all active weights: the threshold
    is halved after more than ``1 + tolerance`` times as many drops, and doubled after less than ``1 - tolerance`` times
    as many. As many weights grow at random, in proportion to the survivors of each layer, at positions that were not
    just dropped. The strongest unit of a layer always survives, since a layer without survivors could never recover
    (project choice).

    Args:
        threshold: magnitude below which weights are dropped in the first update.
        tolerance: relative deviation from the aim at which the threshold is not changed.
        doubles_at: fractions of the budget at which the period doubles, starting from ``every``.
    """

    paper: ClassVar[str] = "dsr"

    threshold: float = 1e-3
    tolerance: float = 0.1
    doubles_at: Sequence[float] = (0.125, 0.4, 0.7)
    until: float = 0.95
    drop_fraction: float = 0.1
    drop_schedule: Schedule = constant
    exclude_dropped: bool = True
    regrown_keeps_value: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threshold <= 0 or not 0 <= self.tolerance < 1:
            raise ValueError(
                f"threshold={self.threshold:g}, tolerance={self.tolerance:g}: the threshold must be > 0 and the "
                f"tolerance in [0, 1)"
            )

    def start(self, net: SparseModel, probe: Probe) -> None:
        """Draw random masks, and set the first threshold."""
        super().start(net, probe)
        net.memory["threshold"] = {"all": torch.tensor(self.threshold, dtype=torch.float64)}

    def _due(self, clock: Clock) -> bool:
        doublings = sum(clock.step >= round(moment * clock.total) for moment in self.doubles_at)
        period = clock.steps(self.every) * 2**doublings
        return clock.step < clock.total and clock.due(period, stop=self.until)

    def drops(self, clock: Clock) -> float | None:
        """Return None: the threshold decides."""
        del clock

    def drop(self, net: SparseModel, clock: Clock, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return masks of the weights above the threshold, and adapt the threshold."""
        threshold = float(net.memory["threshold"]["all"])
        kept: dict[str, Tensor] = {}
        for name, mask in net.masks.items():
            strength = self.drop_score(net, name, gradients)
            strongest = self.pattern.prune(mask, strength, min(1, net.counts[name]))
            kept[name] = strongest | self.pattern.keep_above(mask, strength, threshold)
        active = sum(net.counts[name] for name in kept)
        dropped = active - sum(whole_numbers({name: mask.count_nonzero() for name, mask in kept.items()}).values())
        meant = self.drop_schedule(self.drop_fraction, self.drop_fraction_end, clock.between(0, self.until)) * active
        if dropped > (1 + self.tolerance) * meant:
            net.memory["threshold"]["all"] /= 2
        elif dropped < (1 - self.tolerance) * meant:
            net.memory["threshold"]["all"] *= 2
        return kept

    def deserved(self, net: SparseModel, kept: Mapping[str, int]) -> Mapping[str, float]:
        """Return the number of survivors of each layer."""
        return kept
