"""Between mask updates no step waits for the device: a training of two launches ahead of the GPU stays ahead."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from gpu.support import DEVICES, WAITS, configured, methods, run_of, start_of
from gpu.waits import Strict, strictly

from sparsebench.engine import Sparsity

FIRST, LAST, TOTAL = 3, 7, 400
"""The steps that are watched, out of the budget: in the first epoch, far from every update."""


class Stopped(Exception):
    """Ends a training that has been watched."""


class Unwaiting(L.Callback):
    """Watch whole steps, from the end of one to the end of the next, the fetching of the batch among them."""

    def __init__(self, device: str) -> None:
        self.strict = Strict(device)
        self.watched = 0

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if FIRST < self.sparsity(trainer).step <= LAST:
            self.strict.end()
            self.watched += 1
        if FIRST <= self.sparsity(trainer).step < LAST:
            self.strict.begin()
        if self.sparsity(trainer).step == LAST:
            raise Stopped

    @staticmethod
    def sparsity(trainer) -> Sparsity:
        return next(callback for callback in trainer.callbacks if isinstance(callback, Sparsity))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", methods())
def test_no_step_between_updates_waits(method, device, tmp_path, monkeypatch):
    if method in WAITS:
        pytest.skip(WAITS[method])
    if device == "cpu":  # where a look costs nothing, it looks at every batch
        monkeypatch.setattr("sparsebench.fits.fit.LossGuard", L.Callback)
    watch = Unwaiting(device)
    # the end of an epoch is reported, updates and the end of a search are decided: none falls into these steps
    settings = ["every=100", "trainer.max_epochs=-1", f"trainer.max_steps={TOTAL}"]
    run = run_of(configured(method, device, *settings), tmp_path, watch)
    try:
        with pytest.raises(Stopped):
            run.fit("single", start_of(run))
    finally:
        watch.strict.stop()
    assert watch.watched == LAST - FIRST


def test_waiting_is_noticed():
    with pytest.raises(AssertionError, match="_local_scalar_dense"), strictly("cpu"):
        torch.ones(2).sum().item()
    with pytest.raises(AssertionError, match="index"), strictly("cpu"):
        torch.ones(2)[torch.tensor([True, False])]
    with pytest.raises(AssertionError, match="tolist"), strictly("cpu"):
        torch.ones(2).tolist()
    with pytest.raises(AssertionError, match="as_tensor"), strictly("cpu"):
        torch.as_tensor(3, device="cpu")
    with strictly("cpu"):
        torch.where(torch.ones(2) > 0, 1.0, 0.0).sum()
