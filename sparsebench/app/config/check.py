"""Check a command line and a composed configuration before anything heavy is imported."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsebench.app.config.tree import groups, options, search_path
from sparsebench.runs.messages import did_you_mean

CHOICES = {"on_collapse": ("warn", "error", "floor"), "progress": ("auto", "rich", "lines", "none")}
"""Keys with few possible values."""


def normalise(arguments: list[str]) -> list[str]:
    """Translate ``density=0.1`` to ``sparsity=0.9``, loudly, since other frameworks say density."""
    translated: list[str] = []
    for argument in arguments:
        key, found, value = argument.partition("=")
        if key == "density" and found:
            shares = [_number("density", part) for part in value.split(",")]
            argument = "sparsity=" + ",".join(f"{round(1 - share, 12):g}" for share in shares)
            print(f"sparsebench: density={value} is read as {argument}")
        translated.append(argument)
    return translated


def check_overrides(arguments: list[str]) -> None:
    """Check that every chosen option of a group exists, and that sparsity is a number.

    Raises:
        ValueError: an option does not exist; names the nearest.
    """
    folders = search_path(arguments)
    for folder in folders:
        if not Path(folder).is_dir():
            raise ValueError(f"--config-dir {folder} is no folder: give one that holds method/NAME.yaml and the like")
    known = set(groups(folders))
    for argument in arguments:
        key, found, value = argument.lstrip("+").partition("=")
        if not found or re.search(r"[(\[{$]", value):
            continue
        if key == "sparsity":
            for share in value.split(","):
                _number(key, share)
        if key not in known:
            continue
        offered = options(key, folders)
        for choice in value.split(","):
            if choice not in offered and choice not in ("null", ""):
                raise ValueError(
                    f"unknown {key} {choice!r}{did_you_mean(choice, offered)}; available are {', '.join(offered)}"
                )


def check_config(config: Mapping[str, Any]) -> None:
    """Check the numbers of a resolved configuration.

    Raises:
        ValueError: the first impossible value: what was given, what is allowed.
    """
    sparsity = _number("sparsity", config["sparsity"])
    if not 0 <= sparsity < 1:
        hint = f"; did you mean {sparsity / 100:g}?" if 10 <= sparsity < 100 else ""
        raise ValueError(
            f"sparsity={sparsity:g} is impossible: choose a share of zeros of at least 0 and below 1{hint}"
        )
    if not isinstance(config["seed"], int) or config["seed"] < 0:
        raise ValueError(f"seed={config['seed']} is impossible: choose a whole number of at least 0")
    trainer, dataset = config["trainer"], config["dataset"]
    for group, key in ((dataset, "batch_size"), (trainer, "max_epochs"), (trainer, "max_steps")):
        if group.get(key) is not None:
            _number(f"{'dataset' if group is dataset else 'trainer'}.{key}", group[key], "a whole number such as 64")
    if dataset.get("batch_size") is not None and dataset["batch_size"] < 1:
        raise ValueError(f"dataset.batch_size={dataset['batch_size']} is impossible: choose at least 1")
    if (trainer["max_epochs"] or -1) < 1 and (trainer["max_steps"] or -1) < 1:
        raise ValueError("training has no end: set trainer.max_epochs or trainer.max_steps to at least 1")
    pattern, method = config["choices"].get("pattern"), config["method"]
    if pattern not in (None, "unstructured") and "density" in method and "pattern" not in method:
        name = config["choices"]["method"]
        raise ValueError(f"method {name} takes no pattern, pattern={pattern} was given: leave it out for this method")
    for key, allowed in CHOICES.items():
        if config[key] not in allowed:
            *others, last = allowed
            raise ValueError(f"{key}={config[key]} is unknown: choose {', '.join(others)} or {last}")
    if config["on_collapse"] == "floor" and pattern not in (None, "unstructured"):
        raise ValueError(f"on_collapse=floor keeps single weights and breaks pattern={pattern}: choose warn or error")


def _number(key: str, value: Any, example: str = "a share such as 0.9") -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{key}={value} is no number: choose {example}") from None
