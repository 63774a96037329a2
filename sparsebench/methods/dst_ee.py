"""DST-EE: RigL with a growth score that also rewards weights that were rarely active (Huang et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsebench.functional.score import acquisition
from sparsebench.methods.base import Clock, Probe
from sparsebench.methods.dynamic import RigL
from sparsebench.runs.messages import check_choice
from sparsebench.sparse.model import SparseModel


@dataclass(frozen=True, kw_only=True)
class DSTEE(RigL):
    """Grow by gradient magnitude plus a bonus for rarely active weights (Huang et al. 2023).

    The growth score of weight i at time t is ``|dL/dw_i| + c * ln(t) / (N_i + eps)``, where N_i counts the mask
    configurations in which i was active. ``c = 0`` is RigL, bit for bit, under equal options.

    Args:
        c: weight of exploration against exploitation. No default, since the paper's value is not known here.
        eps: added to the counters; ``c / eps`` is the bonus of a weight that was never active.
        time_unit: unit of t: ``iteration`` (optimizer steps) or ``update`` (mask updates).
        counter_init: counters start at the first mask (``initial_mask``) or at ``zeros``.
        counter_update: counters grow at each ``mask_update`` or at each ``step``.
    """

    paper: ClassVar[str] = "dst_ee"

    c: float
    eps: float = 1.0
    time_unit: Literal["iteration", "update"] = "iteration"
    counter_init: Literal["initial_mask", "zeros"] = "initial_mask"
    counter_update: Literal["mask_update", "step"] = "mask_update"
    every: float = 1000
    until: float = 1.0
    drop_fraction: float = 0.5
    drop_fraction_end: float = 0.005
    replaces_step: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.c < 0 or self.eps <= 0:
            raise ValueError(f"dst_ee with c={self.c:g}, eps={self.eps:g}: c must be >= 0 and eps > 0")
        check_choice("time_unit", self.time_unit, ("iteration", "update"))
        check_choice("counter_init", self.counter_init, ("initial_mask", "zeros"))
        check_choice("counter_update", self.counter_update, ("mask_update", "step"))

    def start(self, net: SparseModel, probe: Probe) -> None:
        """Draw random masks and start the counters."""
        super().start(net, probe)
        first = 1 if self.counter_init == "initial_mask" else 0
        net.memory["active"] = {name: mask.to(torch.int32) * first for name, mask in net.masks.items()}

    def after_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Rewire after the step; count the masks of this step if counters follow steps."""
        if self.counter_update == "step":
            self._tally(net)
        super().after_step(net, clock, optimizer)

    def rewire(self, net: SparseModel, clock: Clock, optimizer: Optimizer | None) -> None:
        """Move connections, then count the new masks."""
        super().rewire(net, clock, optimizer)
        if self.counter_update == "mask_update":
            self._tally(net)

    def grow_score(self, net: SparseModel, name: str, clock: Clock, gradients: Mapping[str, Tensor]) -> Tensor:
        """Return exploitation plus exploration: the acquisition function."""
        time = clock.step if self.time_unit == "iteration" else clock.step // clock.steps(self.every)
        return acquisition(gradients[name], net.memory["active"][name], c=self.c, eps=self.eps, time=time)

    def _tally(self, net: SparseModel) -> None:
        for name, mask in net.masks.items():
            net.memory["active"][name] += mask
