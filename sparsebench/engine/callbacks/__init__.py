"""Callbacks beside ``Sparsity``: monitors, averaging, checkpoints, progress."""

from sparsebench.engine.callbacks.averaging import Averaging

__all__ = ["Averaging"]
