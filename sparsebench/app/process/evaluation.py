"""Measure a finished run once more: on another split, on another data set, or with other settings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.errors import HydraException
from torch import Tensor

from sparsebench.analysis.quality import brier, class_accuracies, predict, qualities
from sparsebench.app.config.build import build_data
from sparsebench.app.config.compose import compose_config
from sparsebench.app.process.finished import FinishedRun
from sparsebench.data.loader import EvalLoader
from sparsebench.runs.atomic import write_atomically
from sparsebench.runs.files import EVALUATIONS
from sparsebench.runs.fingerprints import fingerprints

SPLITS = ("test", "validation", "train")
_OF_PLACE = ("root", "download", "workers", "resident", "batch_size", "eval_batch_size")
"""Settings of a data set that do not affect an evaluation."""


def data_settings(run: FinishedRun, overrides: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return name and settings of the requested data, starting from the run's own.

    Args:
        run: the run.
        overrides: ``dataset=NAME``, ``dataset.KEY=VALUE``, ``data_root=FOLDER``.

    Raises:
        ValueError: an override is not one of these, or ``train`` would refuse it.
    """
    for override in overrides:
        key, joined, _ = override.lstrip("+").partition("=")
        if not joined or not (key in ("dataset", "data_root") or key.startswith("dataset.")):
            raise ValueError(
                f"{override} does not apply to a finished run: give dataset=NAME, dataset.KEY=VALUE or data_root="
            )
    own = run.config["choices"]["dataset"]
    named = any(override.startswith("dataset=") for override in overrides)
    try:
        config = compose_config([*([] if named else [f"dataset={own}"]), *overrides])
    except HydraException as error:
        first = str(error).splitlines()[0].rstrip(".")
        raise ValueError(
            f"{first}: see sparsebench list datasets, and docs/reference for the keys of a data set"
        ) from error
    name, settings = config["choices"]["dataset"], config["dataset"]
    if not named:  # the run's settings with only the typed ones changed
        typed = {override.lstrip("+").partition("=")[0].partition(".")[2] for override in overrides}
        typed |= {"root"} if any(override.startswith("data_root=") for override in overrides) else set()
        settings = {**run.config["dataset"], **{key: settings[key] for key in typed if key in settings}}
    return name, settings


def evaluate(run: FinishedRun, *, split: str = "test", overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return accuracy, likelihood and calibration of a run's network, in float32, on the requested images.

    Images are normalised by the constants of their data set.

    Args:
        run: the run.
        split: ``test``, ``validation`` or ``train`` (without augmentation).
        overrides: see ``data_settings``.

    Returns:
        ``dataset``, ``split``, ``settings``, ``images``, ``accuracy``, ``nll``, ``ece``, ``brier``, and
        ``class_accuracy`` by class.

    Raises:
        ValueError: the network does not fit these data, or there are no such images.
    """
    name, settings = data_settings(run, overrides)
    config = {**run.config, "dataset": settings}
    data = build_data(config)
    if (data.classes, tuple(data.shape)) != (run.data.classes, tuple(run.data.shape)):
        raise ValueError(
            f"{name} has {data.classes} classes and images of shape {tuple(data.shape)}, but the network of "
            f"{run.folder} "
            f"is for {run.data.classes} and {tuple(run.data.shape)}: choose such data"
        )
    logits, labels = predict(run.network.to(_device(run.config)), _batches(data, split, _device(run.config)))
    run.network.cpu()
    return {
        "dataset": name,
        "split": split,
        "settings": {key: value for key, value in settings.items() if key not in _OF_PLACE},
        "fingerprint": fingerprints(config).get("data"),
        "images": len(labels),
        **qualities(logits, labels),
        "brier": brier(logits, labels),
        "class_accuracy": class_accuracies(logits, labels),
    }


def note(folder: Path, found: Mapping[str, Any]) -> Path:
    """Write an evaluation into the run's folder, replacing an earlier one of the same data; return the file."""
    path = folder / EVALUATIONS
    same = ("dataset", "split", "settings", "fingerprint")
    known: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    kept = [entry for entry in known if any(entry.get(key) != found[key] for key in same)]
    write_atomically(path, json.dumps([*kept, dict(found)], indent=1) + "\n")
    return path


def _batches(data: Any, split: str, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    data.prepare_data()
    if split == "test":
        loader = data.test_dataloader()
    else:
        source = data.training_sets()[0 if split == "train" else 1]
        if source is None:
            raise ValueError("there are no validation images (val_share is 0): choose --split test or train")
        loader = EvalLoader(source, batch_size=data.eval_batch_size)
    return ((images.to(device), labels.to(device)) for images, labels in loader)


def _device(config: Mapping[str, Any]) -> torch.device:
    wanted = config["trainer"]["accelerator"] != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if wanted else "cpu")
