"""Callbacks other than ``Sparsity``: monitors, averaging, checkpoints, progress."""

from sparsebench.engine.callbacks.averaging import Averaging

__all__ = ["Averaging"]
