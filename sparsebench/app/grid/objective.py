"""The objective of a search: the validation accuracy at the end of each run, if available."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from sparsebench.runs.folder import RunFolder


def check_objective(config: Mapping[str, Any]) -> None:
    """Check that a run of this configuration will have a validation accuracy.

    Raises:
        ValueError: it will not; the message says what to write.
    """
    trainer = config["trainer"]
    every, epochs = trainer.get("check_val_every_n_epoch") or 1, trainer["max_epochs"]
    if epochs is not None and 0 < epochs < every:
        raise ValueError(
            f"a search maximises the validation accuracy, but trainer.check_val_every_n_epoch={every} with "
            f"trainer.max_epochs={epochs} never measures it: choose at most {epochs}"
        )
    if config["dataset"].get("val_share") == 0 and not _has_own_validation(config):
        raise ValueError(
            "a search maximises the validation accuracy, but dataset.val_share=0 leaves no images for it: "
            "choose a share in (0, 1)"
        )


def objective(folders: Sequence[RunFolder]) -> float:
    """Return the mean validation accuracy of finished runs.

    Raises:
        ValueError: a run has no validation accuracy.
    """
    values = [folder.result().get("val_accuracy") for folder in folders]
    known = [value for value in values if isinstance(value, int | float)]
    if len(known) < len(folders):
        missing = folders[[isinstance(value, int | float) for value in values].index(False)]
        raise ValueError(f"{missing} has no validation accuracy, which a search maximises: raise dataset.val_share")
    return fmean(known)


def _has_own_validation(config: Mapping[str, Any]) -> bool:
    """Return True if a data set includes validation images."""
    from sparsebench.app.config.build import build_data
    from sparsebench.data.base import ImageData

    data = build_data(config)
    return type(data).read_val is not ImageData.read_val and data.read_val() is not None
