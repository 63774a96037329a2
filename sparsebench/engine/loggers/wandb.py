"""One W&B run per training run, with complete rows, closed with the run's outcome."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from sparsebench.runs.files import ARTIFACTS


class WandbRun(WandbLogger):
    """Log to W&B one row per optimizer step, so that panels can draw any metric against any other.

    Lightning logs validation and training metrics of a step separately, but W&B joins only metrics logged together. The
    last row is held back until the next step or the end.

    Args:
        folder: the run's folder, which contains the artifacts.
        artifacts: whether to upload final weights, masks and configuration of a successful run.
        settings: arguments of ``WandbLogger``.
    """

    def __init__(self, *, folder: Path, artifacts: bool, **settings: Any) -> None:
        super().__init__(**settings)
        self.folder, self.artifacts = folder, artifacts
        self._row: dict[str, float] = {}
        self._row_step: int | None = None
        self.closed = False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add metrics to the row of a step."""
        if step != self._row_step:
            self.flush()
        self._row_step = step
        self._row.update(metrics)

    @rank_zero_only
    def flush(self) -> None:
        """Send the pending row."""
        if self._row:
            super().log_metrics(self._row, self._row_step)
            self._row = {}

    @rank_zero_only
    def close(self, *, failed: bool, summary: Mapping[str, Any]) -> None:
        """End the run, marked as failed if it failed, with the numbers of its result as summary."""
        if self.closed:
            return
        self.flush()
        self.experiment.summary.update({k: v for k, v in summary.items() if isinstance(v, int | float | str)})
        if self.artifacts and not failed and summary:
            self._upload()
        self.experiment.finish(exit_code=int(failed))
        self.closed = True

    def _upload(self) -> None:
        import wandb

        files = [self.folder / name for name in ARTIFACTS if (self.folder / name).exists()]
        artifact = wandb.Artifact(f"run-{self.experiment.id}", type="model")
        for path in files:
            artifact.add_file(str(path))
        self.experiment.log_artifact(artifact)


def identity_of(run: str, stage: str | None, attempt: str) -> str:
    """Return the W&B id of a run or one of its stages: unchanged on resumption, different for each attempt.

    Args:
        run: name of the run's folder; if it ends with a hash, only the hash is used.
        stage: name of the stage; None for the run itself.
        attempt: distinguishes folders of one configuration, and attempts in one folder.
    """
    name = run.rpartition("--")[2] or run
    return re.sub(r"[^\w.-]+", "-", "-".join(part for part in (name, attempt, stage) if part))
