"""Dynamic sparse training: drop the weakest connections, grow others, at a constant budget.

SET grows at random, RigL by gradient magnitude.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsebench.cost.passes import SPARSE, SPARSE_DENSE_WEIGHT, Passes
from sparsebench.functional.counts import portion
from sparsebench.functional.initial import DRAWN, draw_
from sparsebench.functional.schedule import Schedule, cosine
from sparsebench.functional.score import magnitude_by_sign
from sparsebench.methods.advice import advise_on_updates
from sparsebench.methods.base import Clock, skip_step
from sparsebench.methods.static import Static
from sparsebench.runs.messages import check_choice
from sparsebench.sparse.model import SparseModel


@dataclass(frozen=True, kw_only=True)
class SET(Static):
    """Drop the smallest magnitudes, grow as many weights at random (Mocanu et al. 2018; Evci et al. 2020).

    Args:
        every: steps between updates (a fraction of the budget when below 1).
        until: last moment of an update, as a fraction of the budget, inclusive.
        drop_fraction: share of a layer's active weights that is dropped at the first update.
        drop_fraction_end: the share that the schedule reaches at ``until``.
        drop_schedule: (start, end, progress) -> share.
        drop_count: ``floor`` or ``ceil`` of share times active weights.
        replaces_step: True when an update takes the place of the optimizer step (RigL); False when it follows the
            step and uses that step's gradient (ITOP).
        exclude_dropped: True when a weight dropped in an update may not grow in the same update.
        regrown_keeps_value: whether a weight dropped and regrown in one update keeps its value and moments.
        score_batches: number of optimizer steps over which the growth gradient is averaged.
        drop_by_sign: rank positive and negative weights apart, so that the same share of each is dropped.
        grown_weights: where grown weights start: ``zero``, or a law of ``functional.initial``; their moments are zero.
    """

    paper: ClassVar[str] = "set"
    needs_gradient: ClassVar[bool] = False

    every: float = 100
    until: float = 0.75
    drop_fraction: float = 0.3
    drop_fraction_end: float = 0.0
    drop_schedule: Schedule = cosine
    drop_count: Literal["floor", "ceil"] = "floor"
    replaces_step: bool = False
    exclude_dropped: bool = False
    regrown_keeps_value: bool = True
    score_batches: int = 1
    drop_by_sign: bool = False
    grown_weights: str = "zero"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.drop_fraction < 1:
            raise ValueError(f"drop_fraction {self.drop_fraction:g} is impossible: choose a share in [0, 1)")
        if self.every <= 0 or not 0 < self.until <= 1:
            raise ValueError(f"every={self.every:g}, until={self.until:g}: every must be > 0 and until in (0, 1]")
        if self.score_batches < 1 or (self.every >= 1 and self.score_batches > self.every):
            raise ValueError(f"score_batches {self.score_batches} must lie between 1 and every={self.every:g}")
        check_choice("drop_count", self.drop_count, ("floor", "ceil"))
        check_choice("grown_weights", self.grown_weights, ("zero", *DRAWN))

    # -- when -----------------------------------------------------------------------------------------------------

    def before_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Rewire instead of stepping, or store the dense gradient for a later update; then mask gradients."""
        advise_on_updates(clock, self.every, self.until, replaces=self.replaces_step)
        if self.needs_gradient and self._collects(clock):
            self._collect(net)
        if self.replaces_step and self._due(clock):
            self.rewire(net, clock, optimizer)
            skip_step(optimizer)
        net.mask_gradients_()

    def after_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Rewire after the step if the method does so."""
        if not self.replaces_step and self._due(clock):
            self.rewire(net, clock, optimizer)

    def passes(self, net: SparseModel, clock: Clock) -> Passes:
        """Return sparse passes, with a dense weight gradient in steps whose gradient growth needs."""
        return SPARSE_DENSE_WEIGHT if self.needs_gradient and self._collects(clock) else SPARSE

    def _due(self, clock: Clock) -> bool:
        # weights that grow after the last step would never train
        return clock.step < clock.total and clock.due(self.every, stop=self.until)

    def _collects(self, clock: Clock) -> bool:
        now = clock if self.replaces_step else clock.after
        return any(self._due(Clock(now.step + ahead, now.total)) for ahead in range(self.score_batches))

    def _collect(self, net: SparseModel) -> None:
        memory = net.memory.setdefault("gradient", {})
        for name, gradient in net.gradients().items():
            alone = self.score_batches == 1 and self.replaces_step  # used up before anything changes it
            part = gradient if alone else gradient / self.score_batches
            memory[name] = memory[name] + part if name in memory else part

    def drops(self, clock: Clock) -> float | None:
        """Return the share of active weights that an update now would drop; None if the method uses no share."""
        return self.drop_schedule(self.drop_fraction, self.drop_fraction_end, clock.between(0.0, self.until))

    def targets(self, clock: Clock) -> dict[str, float]:
        """Return the final sparsity, and the share that an update would drop."""
        share = self.drops(clock)
        aims = {} if share is None else {"drop_fraction": share if clock.progress < self.until else 0.0}
        return {**super().targets(clock), **aims}

    # -- how ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def rewire(self, net: SparseModel, clock: Clock, optimizer: Optimizer | None) -> None:
        """Drop, then grow each layer to its size; set weights outside the mask to zero."""
        gradients = net.memory.pop("gradient", {})
        kept = self.drop(net, clock, gradients)
        sizes = self.sizes(net, clock, kept)
        new = {name: self.grow(net, name, clock, gradients, kept[name], sizes[name]) for name in kept}
        stayed = dict(net.masks) if self.regrown_keeps_value else kept
        net.set_masks(new, optimizer, keep=None if self.regrown_keeps_value else kept)
        if self.grown_weights != "zero":
            for name, weight in net.params.items():
                drawn = torch.empty(weight.shape)
                draw_(drawn, self.grown_weights, generator=net.generator("grown", clock.step, name))
                weight.copy_(torch.where(net.masks[name] & ~stayed[name], drawn.to(weight), weight))

    def drop(self, net: SparseModel, clock: Clock, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return masks of all but the weakest ``share * active`` connections of every layer."""
        share = self.drops(clock) or 0.0
        kept: dict[str, Tensor] = {}
        for name, mask in net.masks.items():
            stay = net.counts[name] - self.dropped(net, name, share)
            strength = self.drop_score(net, name, gradients)
            kept[name] = self.pattern.prune(mask, strength, stay, allow_regrow=not self.exclude_dropped)
        return kept

    def sizes(self, net: SparseModel, clock: Clock, kept: Mapping[str, Tensor]) -> Mapping[str, int]:
        """Return the number of active weights of each layer after growth: by default unchanged."""
        del clock, kept
        return net.counts

    def grow(
        self, net: SparseModel, name: str, clock: Clock, gradients: Mapping[str, Tensor], kept: Tensor, size: int
    ) -> Tensor:
        """Return the mask of a layer, grown from the kept weights to its size."""
        promise = self.grow_score(net, name, clock, gradients)
        return self.pattern.grow(kept, promise, size - int(kept.count_nonzero()), avoid=self.avoided(net, name, kept))

    def avoided(self, net: SparseModel, name: str, kept: Tensor) -> Tensor | None:
        """Return the positions that grow only if no others are left."""
        return net.masks[name] & ~kept if self.exclude_dropped else None

    def drop_score(self, net: SparseModel, name: str, gradients: Mapping[str, Tensor]) -> Tensor:
        """Return the strength of each connection; the smallest are dropped."""
        del gradients
        weight = net.params[name]
        return magnitude_by_sign(weight, net.masks[name]) if self.drop_by_sign else weight.abs()

    def grow_score(self, net: SparseModel, name: str, clock: Clock, gradients: Mapping[str, Tensor]) -> Tensor:
        """Return the promise of each connection; the largest grow."""
        del gradients
        draw = torch.rand(net.params[name].shape, generator=net.generator("grow", clock.step, name))
        return draw.to(net.params[name].device)

    def dropped(self, net: SparseModel, name: str, share: float) -> int:
        """Return the number of weights a layer drops: whole units of the pattern, all replaceable."""
        unit, active = self.pattern.unit(net.shapes[name]), net.counts[name]
        count = portion(active, share, unit=unit, up=self.drop_count == "ceil")
        return min(count, net.params[name].numel() - active) if self.exclude_dropped else count


@dataclass(frozen=True, kw_only=True)
class RandomUnfired(SET):
    """Grow at random among weights that were never active, then others, in rare updates (ITOP, Liu et al. 2021)."""

    paper: ClassVar[str] = "itop"

    every: float = 1500
    until: float = 1.0
    drop_fraction: float = 0.5
    drop_fraction_end: float = 0.005
    drop_count: Literal["floor", "ceil"] = "ceil"

    def grow_score(self, net: SparseModel, name: str, clock: Clock, gradients: Mapping[str, Tensor]) -> Tensor:
        """Return a draw in [0, 1), plus one for weights that were never active."""
        return super().grow_score(net, name, clock, gradients) + (~net.memory["fired"][name]).float()


@dataclass(frozen=True, kw_only=True)
class RigL(SET):
    """Grow the weights with the largest gradient magnitude (Evci et al. 2020, algorithm 1)."""

    paper: ClassVar[str] = "rigl"
    needs_gradient: ClassVar[bool] = True

    replaces_step: bool = True

    def grow_score(self, net: SparseModel, name: str, clock: Clock, gradients: Mapping[str, Tensor]) -> Tensor:
        """Return the magnitude of the dense gradient."""
        return gradients[name].abs()
