"""Show progress: a Rich bar in a terminal, one line per epoch in a log file."""

from __future__ import annotations

import multiprocessing
import sys
import time

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme

from sparsebench.results.schema import shown_in


class EpochLines(L.Callback):
    """Print one line per epoch, for logs, sweeps and scripts."""

    def __init__(self, label: str = "") -> None:
        self.label = label
        self._began = time.monotonic()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._began = time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print a line at every tenth of the run and at its end."""
        epochs = max(1, trainer.max_epochs or 1)
        done = trainer.current_epoch + 1
        if done % max(1, epochs // 10) and done != epochs:
            return
        seen = {
            name: float(value) for name, value in trainer.callback_metrics.items()
        }  # on all ranks: reading them is collective
        if not trainer.is_global_zero:
            return
        parts = [
            f"{key.name_for_people} {key.text(seen[key.name])}" for key in shown_in("progress") if key.name in seen
        ]
        seconds = time.monotonic() - self._began
        total = f"/{epochs}" if trainer.max_epochs and trainer.max_epochs > 0 else ""
        print(f"{self.label}epoch {done}{total}  {'  '.join(parts)}  {seconds:.0f} s", flush=True)


def progress_callbacks(kind: str, label: str = "") -> list[L.Callback]:
    """Return the callbacks that show progress.

    Args:
        kind: ``rich``, ``lines``, ``none``, or ``auto``: rich if a single process writes to a terminal, lines
            otherwise.
        label: text at the start of each line.

    Raises:
        ValueError: the kind is unknown.
    """
    if kind == "auto":  # bars of several processes would overwrite each other
        alone = multiprocessing.parent_process() is None
        kind = "rich" if alone and sys.stdout.isatty() else "lines"
    if kind == "rich":
        theme = RichProgressBarTheme(metrics_format=".4f", metrics_text_delimiter="  ")
        return [RichProgressBar(leave=False, theme=theme)]
    if kind not in ("lines", "none"):
        raise ValueError(f"progress {kind!r} is unknown: allowed are auto, rich, lines, none")
    return [EpochLines(label)] if kind == "lines" else []
