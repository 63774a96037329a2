"""The loggers of a run: always metrics.csv, optionally others, closed even if the run fails."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from sparsebench.runs.atomic import write_atomically


class MetricsFile(Logger):
    """Write ``metrics.csv``: one complete row per optimizer step with metrics, in order even after resuming.

    A row is replaced when its step is logged again, so that an interrupted and resumed run writes the same file as an
    uninterrupted one.

    Args:
        path: path of the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._rows: dict[int, dict[str, Any]] = {}
        if path.exists():
            self._rows = _read(path)

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "csv"

    @property
    def version(self) -> str:
        """Version for Lightning, always the same: the folder is the run."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Ignore hyper-parameters: config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add metrics to the row of a step."""
        row = self._rows.setdefault(step or 0, {"step": step or 0})
        row.update({name: f"{value:.10g}" for name, value in metrics.items()})
        for later in [known for known in self._rows if known > (step or 0)]:
            del self._rows[later]  # written after the checkpoint from which the run resumed
        self.save()

    @rank_zero_only
    def save(self) -> None:
        """Write the file atomically, once there are rows."""
        if not self._rows:
            return
        columns = list(dict.fromkeys(["step", "epoch", *(key for row in self._rows.values() for key in row)]))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows[step] for step in sorted(self._rows))
        write_atomically(self.path, text.getvalue())


def _read(path: Path) -> dict[int, dict[str, Any]]:
    """Return the complete rows by step; rows after a truncation are ignored."""
    found: dict[int, dict[str, Any]] = {}
    with path.open(newline="", encoding="utf-8", errors="replace") as file, contextlib.suppress(csv.Error):
        for row in csv.DictReader(file):
            whole = None not in row and None not in row.values()
            if whole and (row.get("step") or "").isdecimal():
                found[int(row["step"])] = {name: value for name, value in row.items() if value}
    return found
