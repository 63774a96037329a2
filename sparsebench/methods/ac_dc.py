"""Alternating dense and sparse training: AC/DC."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsebench.cost.passes import DENSE, SPARSE, Passes
from sparsebench.functional.counts import global_budget
from sparsebench.functional.score import magnitude
from sparsebench.methods.base import Clock, Distribution, Masked
from sparsebench.sparse.model import SparseModel

MOMENTA = ("momentum_buffer", "exp_avg")
"""Optimizer states that are a running mean of gradients."""


@dataclass(frozen=True)
class Phase:
    """Steps ``start`` to ``stop - 1``, all dense or all sparse."""

    start: int
    stop: int
    sparse: bool


@dataclass(frozen=True, kw_only=True)
class ACDC(Masked):
    """Alternate compressed and decompressed phases (Peste et al. 2021).

    A compressed phase begins with the mask of the largest magnitudes and keeps it. A decompressed phase trains all
    weights, starts pruned weights from zero, and begins without momentum. Training begins dense::

        warm-up | sparse dense sparse ... dense sparse | last dense | final sparse

    Lengths are shares of the training budget. A whole number of alternating phases fills the time between the other
    three; if they do not fit exactly, all are stretched or shrunk alike.

    Args:
        warmup: length of the first, dense phase.
        sparse: length of a compressed phase.
        dense: length of a decompressed phase.
        last_dense: length of the last decompressed phase.
        final: length of the last, compressed phase.
    """

    paper: ClassVar[str] = "acdc"
    budget_holds: ClassVar[str] = "end"

    distribution: Distribution = global_budget
    warmup: float = 0.05
    sparse: float = 0.1
    dense: float = 0.1
    last_dense: float = 0.1
    final: float = 0.15

    def __post_init__(self) -> None:
        super().__post_init__()
        lengths = (self.warmup, self.sparse, self.dense, self.last_dense, self.final)
        if min(lengths) <= 0 or self.warmup + self.last_dense + self.final >= 1:
            raise ValueError(
                f"warmup={self.warmup:g}, sparse={self.sparse:g}, dense={self.dense:g}, "
                f"last_dense={self.last_dense:g}, final={self.final:g}: each must be a share above 0, and warmup, "
                f"last_dense and final together must leave room for the alternation"
            )

    def phases(self, total: int) -> tuple[Phase, ...]:
        """Return the phases of a training of ``total`` steps, dense and sparse in turn, the last one sparse."""
        middle = 1 - self.warmup - self.last_dense - self.final
        cycle = self.sparse + self.dense
        cycles = max(0, round((middle - self.sparse) / cycle))
        stretch = middle / (cycles * cycle + self.sparse)
        alternation = [self.sparse, self.dense] * cycles + [self.sparse]
        lengths = [self.warmup, *(stretch * length for length in alternation), self.last_dense, self.final]
        # rounded to 9 digits first: sums of shares such as 0.1 + 0.2 must not fall on the other side of a half
        marks = [round(round(share * total, 9)) for share in itertools.accumulate(lengths, initial=0.0)]
        return tuple(Phase(a, b, bool(turn % 2)) for turn, (a, b) in enumerate(itertools.pairwise(marks)))

    def phase(self, clock: Clock) -> Phase:
        """Return the phase of the step under way; the last one once training has ended."""
        table = self.phases(clock.total)
        return next((phase for phase in table if phase.start <= clock.step < phase.stop), table[-1])

    def before_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Mask the gradients; at the first step, check that every phase has a step."""
        if clock.step == 0:
            self._check(clock.total)
        super().before_step(net, clock, optimizer)

    def after_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Enter the phase that begins with the next step."""
        phase = self.phase(clock)
        if clock.step != phase.start:
            return
        if phase.sparse:
            net.set_masks(self.pattern.keep(magnitude(net.params), self.budget(net)), optimizer)
        else:
            net.set_masks({name: torch.ones_like(p, dtype=torch.bool) for name, p in net.params.items()}, optimizer)
            forget_momentum_(optimizer)

    def passes(self, net: SparseModel, clock: Clock) -> Passes:
        """Every pass is sparse in sparse phases, dense in dense ones."""
        del net
        return SPARSE if self.phase(clock).sparse else DENSE

    def _fits(self, total: int) -> bool:
        return all(phase.start < phase.stop for phase in self.phases(total))

    def _check(self, total: int) -> None:
        if not self._fits(total):
            enough = next(steps for steps in itertools.count(total + 1) if self._fits(steps))
            raise ValueError(
                f"ac_dc has {len(self.phases(total))} phases, and some have no step in a training of {total}: "
                f"train for at least {enough} steps, or make the shortest phases longer"
            )


@torch.no_grad()
def forget_momentum_(optimizer: Optimizer) -> None:
    """Set the momentum of all parameters to zero, including those that are never sparse."""
    for state in optimizer.state.values():
        for key in MOMENTA:
            if isinstance(state.get(key), Tensor):
                state[key].zero_()
