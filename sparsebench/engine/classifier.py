"""Classifier: a network with loss, metrics and optimizer, independent of sparsity."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from sparsebench.engine.lightly import Running, sums_before
from sparsebench.optim.fused import fuse
from sparsebench.optim.groups import Together, decay_groups

Groups = Callable[[nn.Module], list[dict[str, Any]]]
"""Network -> parameter groups."""

Schedule = Callable[[float], float]
"""Progress of training in [0, 1] -> factor of the learning rate."""


class Classifier(L.LightningModule):
    """Train a network to classify images.

    Args:
        net: images [B, C, H, W] -> logits [B, classes].
        classes: number of classes.
        optimizer: parameter groups -> optimizer.
        schedule: progress -> factor of the learning rate; constant by default.
        total_steps: the budget in optimizer steps, over which the schedule extends.
        weight_decay: weight decay of weights; norms and biases are excluded unless ``decay_norm_and_bias`` is set.
        groups: network -> parameter groups of the optimizer; by default one with weight decay and one without.
        label_smoothing: label smoothing of the training loss.
        channels_last: memory format of network and images.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        classes: int,
        optimizer: Callable[[Iterable[Any]], Optimizer],
        total_steps: int,
        schedule: Schedule | None = None,
        weight_decay: float = 0.0,
        decay_norm_and_bias: bool = True,
        groups: Groups | None = None,
        label_smoothing: float = 0.0,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.net = net.to(memory_format=torch.channels_last) if channels_last else net
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.loss = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
        self.build_optimizer, self.schedule, self.total_steps = optimizer, schedule, total_steps
        self.extra_groups: list[dict[str, Any]] = []  # parameters trained together with the network
        self.extra_optimizers: list[Optimizer] = []  # separate optimizers for such parameters
        decay = partial(decay_groups, weight_decay=weight_decay, decay_norm_and_bias=decay_norm_and_bias)
        self.groups: Groups = groups or decay
        # labels are checked once, when the data are read: a check of each batch would wait for the device
        accuracy = {"num_classes": classes, "average": "micro", "validate_args": False}
        self.running = Running()
        self.val_accuracy = MulticlassAccuracy(**accuracy)
        self.test_accuracy = MulticlassAccuracy(**accuracy)
        self.test_top5 = MulticlassAccuracy(**accuracy, top_k=min(5, classes))
        # no search for NaN, which waits for the device at every step: LossGuard does that
        self.val_loss, self.test_loss = (MeanMetric(nan_strategy="disable") for _ in range(2))

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, faster for the name of the current hook, which is set about fifty times per step."""
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the epoch's sums over all ranks, so that an interrupted epoch continues with them."""
        checkpoint["running"] = self._over_ranks()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the epoch's sums on rank 0 and zeros elsewhere; together they give the epoch's means."""
        sums = checkpoint["running"] if "running" in checkpoint else sums_before(checkpoint["state_dict"])
        self.running.sums = {name: total if self.global_rank == 0 else total * 0 for name, total in sums.items()}

    def _over_ranks(self) -> dict[str, Tensor]:
        total = self.trainer.strategy.reduce
        return {name: total(value.clone(), reduce_op="sum") for name, value in self.running.sums.items()}

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, classes]."""
        return self.net(images.to(memory_format=self.layout))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Reset metrics at the start of an epoch: a checkpoint from an epoch's end still holds its counts."""
        if batch_idx == 0:
            self.running.reset()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss, reduced in float32."""
        images, labels = batch
        logits = self(images).float()
        loss = self.loss(logits, labels)
        self.running.update(loss.detach(), logits.detach(), labels)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the epoch's means after its last batch; metrics stay on the device until then."""
        if self.trainer.is_last_batch or self.trainer.global_step >= self.total_steps:
            loss, accuracy = self.running.means(self._over_ranks())
            self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True)
            self.log("train_accuracy", accuracy, on_step=False, on_epoch=True)
            rate = self.optimizers().param_groups[0]["lr"]  # type: ignore[union-attr]
            self.log("lr", rate, on_step=False, on_epoch=True, rank_zero_only=True)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Measure loss and accuracy on held-out training data."""
        logits, labels = self._logits(batch)
        loss = nn.functional.cross_entropy(logits, labels)
        self.val_loss.update(loss, _weight(loss, labels))
        self.val_accuracy.update(logits, labels)
        self.log("val_loss", self.val_loss, on_epoch=True)
        self.log("val_accuracy", self.val_accuracy, on_epoch=True, prog_bar=True)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Measure loss and accuracy on test data, once, at the end."""
        logits, labels = self._logits(batch)
        loss = nn.functional.cross_entropy(logits, labels)
        self.test_loss.update(loss, _weight(loss, labels))
        self.test_accuracy.update(logits, labels)
        self.test_top5.update(logits, labels)
        self.log("test_loss", self.test_loss, on_epoch=True)
        self.log("test_accuracy", self.test_accuracy, on_epoch=True)
        self.log("test_top5", self.test_top5, on_epoch=True)

    def _logits(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        images, labels = batch
        return self(images).float(), labels

    def configure_optimizers(self) -> Any:
        """Build optimizer and schedule over the network's parameters."""
        optimizer = fuse(self.build_optimizer([*self.groups(self.net), *self.extra_groups]))
        if self.extra_optimizers:
            optimizer = Together([optimizer, *self.extra_optimizers])
        schedule = self.schedule
        if schedule is None:
            return optimizer
        factor = LambdaLR(optimizer, lambda step: schedule(min(1.0, step / self.total_steps)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": factor, "interval": "step"}}


def _weight(loss: Tensor, labels: Tensor) -> Tensor:
    """Return the size of a batch as a tensor filled on the device, since copying a number there would block."""
    return torch.full_like(loss.detach(), len(labels))
