"""Detect layers without active weights, which pass no signal."""

from __future__ import annotations

import warnings
from typing import Any

import lightning as L

from sparsebench.engine.sparsity import Sparsity
from sparsebench.sparse.statistics import collapsed_layers

ACTIONS = ("warn", "error", "floor")


class CollapseGuard(L.Callback):
    """Warn about layers without active weights, or raise an error.

    With ``floor`` no layer becomes empty: the sparse state keeps its strongest weight and removes the weakest weight of
    the other layers instead, so that the budget stays exact.

    Args:
        sparsity: the callback whose masks are checked.
        action: ``warn`` once per layer, ``error``, or ``floor``.

    Raises:
        ValueError: the action is unknown; with ``error``, a layer has collapsed.
    """

    def __init__(self, sparsity: Sparsity, *, action: str = "warn") -> None:
        if action not in ACTIONS:
            raise ValueError(f"on_collapse {action!r} is unknown: choose {', '.join(ACTIONS)}")
        self.sparsity, self.action = sparsity, action
        self._seen = -1
        self._warned: set[str] = set()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Set the minimum number of weights per layer before the first masks."""
        if stage == "fit":
            self.sparsity.net.floor = self.action == "floor"

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Check all layers when the masks have changed."""
        net = self.sparsity.net
        if net.version == self._seen:
            return
        self._seen = net.version
        lost = [name for name in collapsed_layers(net) if name not in self._warned]
        if not lost:
            return
        found = f"no weight is left in {', '.join(lost)} at step {self.sparsity.step}"
        if self.action == "error":
            raise ValueError(f"{found}: lower the sparsity, choose another distribution, or set on_collapse=floor")
        warnings.warn(f"{found}: no signal passes through; on_collapse=floor keeps one weight per layer", stacklevel=1)
        self._warned.update(lost)
