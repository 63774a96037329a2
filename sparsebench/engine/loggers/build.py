"""Open and close the loggers of a run."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from sparsebench.engine.loggers.metrics_file import MetricsFile
from sparsebench.engine.protocols import Closable
from sparsebench.runs.folder import RunFolder


def build_loggers(
    folder: Path,
    *,
    settings: Mapping[str, Any],
    config: Mapping[str, Any],
    label: str,
    run: str | None = None,
    stage: str | None = None,
) -> list[Logger]:
    """Build the loggers of a run, or of one stage of its recipe.

    Args:
        folder: folder of the logs.
        settings: ``kind`` is ``csv``, ``tensorboard``, ``wandb`` or ``none``; for wandb ``project``, ``entity``,
            ``tags``, ``artifacts`` and ``offline`` (None: as set by ``WANDB_MODE``; without it, offline unless a key is
            set). ``WANDB_MODE=disabled`` and ``WANDB_DISABLED=true`` write ``metrics.csv`` only.
        config: the resolved configuration, for loggers that can show it.
        label: readable name of the run.
        run: name of the run's folder; by default the name of ``folder``.
        stage: the stage of the run that is logged; None for the run itself.

    Raises:
        ValueError: the kind is unknown, or a package is missing.
    """
    kind = settings["kind"]
    if kind == "none":
        return []
    loggers: list[Logger] = [MetricsFile(RunFolder(folder).metrics)]
    if kind == "tensorboard":
        loggers.append(_tensorboard(folder))
    elif kind == "wandb" and not is_disabled():
        loggers.append(_wandb(folder, settings, config, label, run or folder.name, stage))
    elif kind not in ("csv", "wandb"):
        raise ValueError(f"logger {kind!r} is unknown: choose csv, tensorboard, wandb or none")
    return loggers


def close_loggers(loggers: list[Logger], *, failed: bool = False, summary: Mapping[str, Any] | None = None) -> None:
    """Close every logger; a W&B run is marked as failed if the run failed."""
    for logger in loggers:
        if isinstance(logger, Closable):
            logger.close(failed=failed, summary=summary or {})
        else:
            logger.finalize("failed" if failed else "success")


def _tensorboard(folder: Path) -> Logger:
    if importlib.util.find_spec("tensorboard") is None:
        raise ValueError("logger=tensorboard needs the package tensorboard: install sparsebench[tensorboard]")
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(save_dir=folder, name="", version=RunFolder(folder).tensorboard.name)


def _wandb(
    folder: Path, settings: Mapping[str, Any], config: Mapping[str, Any], label: str, run: str, stage: str | None
) -> Logger:
    from sparsebench.engine.loggers.wandb import WandbRun, identity_of

    offline = settings["offline"] if settings["offline"] is not None else _is_offline()
    attempt = RunFolder(folder if stage is None else folder.parents[1]).attempt()
    choices = config.get("choices") or {}
    names = [str(choices[key]) for key in ("method", "model", "dataset", "recipe") if choices.get(key)]
    return WandbRun(
        folder=folder,
        artifacts=bool(settings.get("artifacts")),
        project=settings["project"],
        entity=settings["entity"],
        tags=list(dict.fromkeys([*settings["tags"], *names])),
        name=label if stage is None else f"{label} {stage}",
        group=config["name"],
        job_type="train" if stage is None else "stage",
        id=identity_of(run, stage, attempt),
        resume="allow",
        save_dir=str(folder.resolve()),
        offline=offline,
        config=dict(config),
        settings=_silent(offline),
    )


def is_disabled() -> bool:
    """Return True if W&B's environment variables switch it off."""
    mode, switch = os.environ.get("WANDB_MODE", ""), os.environ.get("WANDB_DISABLED", "")
    return mode.lower() == "disabled" or switch.lower() in ("true", "1", "yes", "y", "t", "on")


def _is_offline() -> bool:
    mode = os.environ.get("WANDB_MODE", "").lower()
    if mode in ("offline", "dryrun"):
        return True
    return mode not in ("online", "run") and not os.environ.get("WANDB_API_KEY")


def _silent(offline: bool) -> Any:
    import wandb

    settings = wandb.Settings(silent=True, console="off", mode="offline" if offline else "online")
    if rank_zero_only.rank == 0:
        wandb.setup(settings)  # otherwise wandb prints while Lightning configures it
    return settings
