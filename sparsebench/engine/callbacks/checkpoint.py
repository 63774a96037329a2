"""Continue an interrupted fit exactly: one checkpoint, written atomically, including the random state."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from sparsebench.runs.atomic import PARTIAL, publish


class Continuation(L.Callback):
    """Save a checkpoint at epoch ends and in between, from which the same command continues bit for bit.

    Checkpoints are saved between two optimizer steps, never in the middle of an accumulation. The file is written under
    a temporary name and then renamed, so that a kill leaves the old file or the new one, never half a file. At an
    epoch's end it is renamed once the epoch is logged; otherwise a kill in between would lose the epoch's row.

    Args:
        path: file of the checkpoint.
        seconds: minimum time between two checkpoints, including those at epoch ends, so that short epochs save rarely.
        steps: number of optimizer steps after which to save as well, for tests and very long epochs.
    """

    def __init__(self, path: Path, *, seconds: float = 60.0, steps: int | None = None) -> None:
        self.path = path
        self.seconds = seconds
        self.steps = steps
        self._saved_at = time.monotonic()
        self._seen = 0
        self._written = False
        self._random: dict[str, Any] | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove temporary files that a killed process left behind."""
        if trainer.is_global_zero:
            self._partial.unlink(missing_ok=True)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save in mid-epoch when due; the last batch is left to the end of the epoch."""
        progress = trainer.fit_loop.epoch_loop.batch_progress
        stepped = trainer.global_step > self._seen
        self._seen = trainer.global_step
        ended = 0 <= trainer.max_steps <= trainer.global_step
        if stepped and not (progress.is_last_batch or ended) and self._is_time(trainer):
            self._write(trainer)
            self._commit(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save once the epoch, including validation, is over."""
        if self.steps is not None or self._is_time(trainer):
            self._write(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Publish the checkpoint of the previous epoch."""
        self._commit(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Discard the checkpoint of the last epoch: a fit resumed from it would train nothing and log no metric.

        After a kill between this point and the saving of the final state, the steps since the last checkpoint are
        repeated with the same result.
        """
        if self._written and trainer.is_global_zero:
            self._partial.unlink(missing_ok=True)
        self._written = False

    def _is_time(self, trainer: L.Trainer) -> bool:
        if self.steps is not None and trainer.global_step % self.steps == 0:
            return True
        late = time.monotonic() - self._saved_at >= self.seconds
        return bool(trainer.strategy.broadcast(late, src=0)) if trainer.world_size > 1 else late

    @property
    def _partial(self) -> Path:
        return self.path.with_name(self.path.name + PARTIAL)  # one name, since all ranks write this file

    def _write(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(self._partial)
        self._written, self._saved_at = True, time.monotonic()

    def _commit(self, trainer: L.Trainer) -> None:
        if self._written and trainer.is_global_zero:
            publish(self._partial, self.path)
        self._written = False

    # -- random state ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every global random generator."""
        # asking would wake every GPU of the machine for a run on the processor
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        name, keys, position, has_gauss, gauss = np.random.get_state()
        return {
            "torch": torch.get_rng_state(),
            "cuda": cuda,
            "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss),
            "python": random.getstate(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the random state until training continues: set-up and sanity checks may still draw."""
        self._random = state_dict

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Restore the random state once, before the first step after a resumption."""
        if self._random is None:
            return
        state, self._random = self._random, None
        torch.set_rng_state(state["torch"])
        for device, value in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
            torch.cuda.set_rng_state(value, device)  # there may be fewer devices than before
        name, keys, position, has_gauss, gauss = state["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
        random.setstate(_tupled(state["python"]))


def _tupled(value: Any) -> Any:
    return tuple(_tupled(v) for v in value) if isinstance(value, list | tuple) else value
