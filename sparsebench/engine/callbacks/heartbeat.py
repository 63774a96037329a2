"""Report every few seconds how far a fit has come, and accept requests to stop it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import lightning as L

from sparsebench.runs.activity import Stopped

__all__ = ["Heartbeat", "Stopped"]


class Heartbeat(L.Callback):
    """Write the progress of a fit every few seconds, and stop it at the end of an epoch on request.

    Args:
        tell: (facts as keywords) -> None; called on the first rank.
        asked: () -> reason to stop the run, or None; called on the first rank.
        seconds: minimum time between two heartbeats.

    Attributes:
        label: name of the stage in a run with several stages; set when the fit is built.
    """

    def __init__(
        self, tell: Callable[..., None], *, asked: Callable[[], str] = lambda: "", seconds: float = 2.0
    ) -> None:
        self.tell, self.asked, self.seconds, self.label = tell, asked, seconds, ""
        self._last = self._began = 0.0
        self._first = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock and write the first heartbeat."""
        self._began, self._first = time.time(), trainer.global_step
        self._beat(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write a heartbeat when due."""
        if time.monotonic() - self._last >= self.seconds:
            self._beat(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop on all ranks if a stop was requested."""
        reason = self.asked() if trainer.is_global_zero else ""
        if trainer.world_size > 1:
            reason = trainer.strategy.broadcast(reason, src=0)
        if reason:
            raise Stopped(reason)

    def _beat(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._last = time.monotonic()
        if not trainer.is_global_zero:
            return
        accuracy = trainer.callback_metrics.get("val_accuracy")
        self.tell(
            stage=self.label.strip(": "),
            train_began=self._began,
            first_step=self._first,
            step=trainer.global_step,
            steps=getattr(pl_module, "total_steps", None) or trainer.max_steps,
            epoch=trainer.current_epoch,
            val_accuracy=None if accuracy is None else float(accuracy),
        )
