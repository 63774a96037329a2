"""Read-only callbacks that measure and show a run while it trains."""

from __future__ import annotations

import math
import time
from typing import Any

import lightning as L
import torch

from sparsebench.cost.speed import Stopwatch, reset_peak_memory
from sparsebench.engine.sparsity import Sparsity
from sparsebench.engine.steps import loss_of
from sparsebench.sparse.statistics import collapsed_layers, dead_units, explored


class SparsityMonitor(L.Callback):
    """Log sparsity, exploration, mask change, density per layer, cost and lambda at every epoch's end.

    Sparsity is logged before the first step, too, since methods differ in where they start.

    Args:
        sparsity: the callback to read.
        per_layer: log the density of each layer too.
    """

    def __init__(self, sparsity: Sparsity, *, per_layer: bool = True) -> None:
        self.sparsity = sparsity
        self.per_layer = per_layer

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the values at the start of training."""
        if self.sparsity.step == 0:
            for logger in trainer.loggers:
                logger.log_metrics({"sparsity": 1 - self.sparsity.net.density}, step=0)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log sparsity, cost and mask statistics of the epoch."""
        net, ledger = self.sparsity.net, self.sparsity.ledger
        shown = {"sparsity": 1 - net.density, "explored": explored(net)}
        quiet = {
            "mask_change": float(net.change),
            "dead_units": float(sum(dead_units(net).values())),
            "collapsed_layers": float(len(collapsed_layers(net))),
        }
        quiet |= self.sparsity.method.targets(self.sparsity.clock)
        if ledger is not None:
            quiet |= {"train_flops": float(ledger.train_flops), "train_flops_ratio": ledger.train_flops_ratio}
        if self.per_layer:
            quiet |= {f"density/{name}": value for name, value in net.densities.items()}
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        strengths = [group["lam"] for group in groups if group.get("regularizer") is not None]
        quiet |= {"lambda": strengths[0]} if strengths else {}
        # equal on all ranks, so one rank logs for all
        pl_module.log_dict(shown, prog_bar=True, rank_zero_only=True)
        pl_module.log_dict(quiet, rank_zero_only=True)


class GradientFlow(L.Callback):
    """Measure, in the last step of each epoch, the norm of each layer's gradient on its active weights.

    Source: gradient flow as in Evci et al. 2022 ("Gradient Flow in Sparse Neural Networks"), per layer and unsquared.

    Attributes:
        norms: the last measurement, by parameter.
    """

    def __init__(self, sparsity: Sparsity, *, log: bool = True) -> None:
        self.sparsity, self.log = sparsity, log
        self.norms: dict[str, float] = {}

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        """Measure after masking the gradients; a step that only rewires keeps the previous values."""
        total = self.sparsity.total_steps or 0
        if not (trainer.is_last_batch or self.sparsity.step + 1 >= total):
            return
        found = {n: p.grad for n, p in self.sparsity.net.params.items() if p.grad is not None}
        if found:
            norms = torch.stack([gradient.norm().float() for gradient in found.values()]).tolist()
            self.norms = dict(zip(found, norms, strict=True))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the measured norms if requested."""
        if not self.log:
            return
        values = {f"gradient_flow/{name}": norm for name, norm in self.norms.items()}
        pl_module.log_dict(values, rank_zero_only=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the last measurement."""
        return {"norms": self.norms}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the last measurement."""
        self.norms = state_dict["norms"]


class LossGuard(L.Callback):
    """Stop with one clear line when the loss becomes nan or infinite.

    On a GPU the loss is checked once per ``every`` batches, since each check waits for the device.
    """

    def __init__(self, *, every: int = 50) -> None:
        self.every = every

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check that the loss is finite."""
        loss = loss_of(outputs) if outputs is not None else torch.zeros(())
        if loss.device.type != "cpu" and batch_idx % self.every:
            return
        if not math.isfinite(loss.item()):
            raise FloatingPointError(
                f"the training loss is {loss.item()} after step {trainer.global_step}: lower optimizer.lr, "
                f"clip gradients (trainer.gradient_clip_val=1) or use trainer.precision=32-true"
            )


class SpeedMonitor(L.Callback):
    """Measure the speed of training steps including data loading, and the duration of the whole fit."""

    def __init__(self) -> None:
        self.stopwatch = Stopwatch()
        self._before = 0.0
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the fit began, over all resumptions."""
        return self._before + time.monotonic() - self._began

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start counting the seconds of the fit."""
        reset_peak_memory(trainer.strategy.root_device)
        measured = self.stopwatch.state_dict()
        self.stopwatch = Stopwatch(device=trainer.strategy.root_device)
        self.stopwatch.load_state_dict(measured)
        self._began = time.monotonic()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock if it is paused."""
        self.stopwatch.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a training step."""
        self.stopwatch.lap(len(batch[0]) * trainer.world_size)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Pause the clock during validation."""
        self.stopwatch.pause()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Pause the clock between epochs."""
        self.stopwatch.pause()

    def state_dict(self) -> dict[str, Any]:
        """Return the measured totals."""
        return {"seconds": self.seconds, "stopwatch": self.stopwatch.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the totals that ``state_dict`` returned."""
        self._before = state_dict["seconds"]
        self.stopwatch.load_state_dict(state_dict["stopwatch"])
