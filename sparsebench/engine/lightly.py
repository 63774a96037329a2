"""Cheaper forms of the work of Lightning and torchmetrics at every step, with the same results."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.pytorch.profilers import PassThroughProfiler
from torch import Tensor

_NOTHING = nullcontext()


class Unprofiled(PassThroughProfiler):
    """A profiler that measures nothing: one object for about seventy contexts that Lightning opens per step."""

    def profile(self, action_name: str) -> AbstractContextManager[Any]:
        """Return the one empty context."""
        return _NOTHING


class Running:
    """Mean loss and accuracy of the training steps of an epoch, summed on the device.

    The sums are not buffers, since DDP would overwrite all ranks' buffers with the first rank's at every step.

    Attributes:
        sums: loss times images, correct answers, and images, by name; empty before the first step.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def reset(self) -> None:
        """Reset the sums."""
        self.sums = {}

    @torch.no_grad()
    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: its mean loss, its logits [B, classes] and its labels [B]."""
        correct = (logits.argmax(1) == labels).sum()
        if not self.sums:
            zero = torch.zeros_like(correct)
            self.sums = {"loss": torch.zeros_like(loss), "correct": zero, "images": zero.clone()}
        elif self.sums["loss"].device != loss.device:  # as loaded from a checkpoint
            self.sums = {name: value.to(loss.device) for name, value in self.sums.items()}
        self.sums["loss"] += loss * len(labels)
        self.sums["correct"] += correct
        self.sums["images"] += len(labels)

    @staticmethod
    def means(sums: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return mean loss and accuracy."""
        return sums["loss"] / sums["images"], sums["correct"] / sums["images"]


def sums_before(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take the sums out of the state dict of an older checkpoint, where metric objects kept them."""
    kept = {name: state.pop(name) for name in list(state) if name.startswith(("train_loss.", "train_accuracy."))}
    correct, missed = kept["train_accuracy.tp"].sum(), kept["train_accuracy.fn"].sum()
    return {"loss": kept["train_loss.mean_value"], "correct": correct, "images": correct + missed}
