"""Stochastic weight averaging: the mean of the weights sampled in the last part of a fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor

from sparsebench.functional.average import running_mean
from sparsebench.optim.lr_schedules import Factor

_GRID = 1000
"""Number of points at which a schedule is evaluated to find its peak."""


@dataclass(frozen=True, kw_only=True)
class Averaging:
    """Settings for averaging weights over time (SWA, Izmailov et al. 2018, arXiv 1803.05407).

    Args:
        start: share of the fit after which sampling begins.
        every: steps between two samples; below 1 a share of the fit; by default an epoch. The last step is always a
            sample, and the others are counted back from it, so that a single sample is plain training.
        rate: constant learning rate while sampling, to which the schedule descends before; ``None`` keeps the schedule.
    """

    start: float = 0.75
    every: float | None = None
    rate: float | None = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.start < 1:
            raise ValueError(f"averaging from {self.start:g} on is impossible: choose a share of the fit in [0, 1)")
        if self.every is not None and self.every <= 0:
            raise ValueError(f"averaging every {self.every:g} is impossible: choose a number of steps, or a share")
        if self.rate is not None and self.rate <= 0:
            raise ValueError(f"a learning rate of {self.rate:g} gives equal samples: choose one above 0, or null")

    def schedule(self, base: Factor | None, rate: float) -> Factor | None:
        """Return the learning-rate schedule of a fit with averaging.

        Args:
            base: the schedule without averaging.
            rate: the learning rate that the schedule multiplies.
        """
        if self.rate is None:
            return base
        return anneal(base or (lambda progress: 1.0), start=self.start, end=self.rate / rate)

    def samples(self, total: int, epoch: int) -> list[int]:
        """Return the steps, counted from 1, after which weights are sampled.

        Args:
            total: number of steps of the fit.
            epoch: number of steps of an epoch.
        """
        every = epoch if self.every is None else self.every
        period = max(1, round(every * total) if every < 1 else round(every))
        return [step for step in range(total, 0, -period) if step > self.start * total or step == total][::-1]


def anneal(base: Factor, *, start: float, end: float) -> Factor:
    """Compress a schedule to end at ``start`` with the value ``end``, and stay at ``end`` from there on.

    Values before the peak, a warm-up, do not change.

    Args:
        base: progress -> factor.
        start: share of the budget at which ``end`` is reached.
        end: the last factor.
    """
    grid = [index / _GRID for index in range(_GRID + 1)]
    top = max(grid, key=base)
    peak, last = base(top), base(1.0)

    def factor(progress: float) -> float:
        if progress >= start:
            return end
        at = progress / start
        if at <= top or peak == last:
            return base(at)
        return end + (peak - end) * (base(at) - last) / (peak - last)

    return factor


class WeightAveraging(L.Callback):
    """Keep the mean of the sampled parameters in float64, without touching the weights in training.

    Args:
        averaging: when to sample.
        total: number of steps of the fit.
        epoch: number of steps of an epoch.
        module: name of the submodule whose parameters are averaged.

    Attributes:
        count: number of samples taken.
    """

    def __init__(self, averaging: Averaging, *, total: int, epoch: int, module: str = "net") -> None:
        self.when = set(averaging.samples(total, epoch))
        self.module = module
        self.count = 0
        self._mean: dict[str, Tensor] = {}
        self._seen = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Sample after an optimizer step when due; micro-batches without a step are ignored."""
        step = trainer.global_step
        if step == self._seen:
            return
        self._seen = step
        if step in self.when:
            parameters = dict(pl_module.get_submodule(self.module).named_parameters(remove_duplicate=False))
            sample = {name: p.detach().to(torch.float64) for name, p in parameters.items()}
            self._mean = running_mean(self._mean, sample, self.count)
            self.count += 1

    def weights(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a network's state with the mean in place of its parameters; buffers keep their last values."""
        assert self.count, "the last step is always a sample"
        return {n: self._mean[n].to(v.dtype) if n in self._mean else v for n, v in state.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the mean so far."""
        return {"mean": self._mean, "count": self.count, "seen": self._seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the mean that ``state_dict`` returned."""
        self._mean, self.count, self._seen = state_dict["mean"], state_dict["count"], state_dict["seen"]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Move a restored mean to the device of the weights."""
        self._mean = {name: value.to(pl_module.device) for name, value in self._mean.items()}
