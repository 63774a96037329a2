"""Check a command line and a composed configuration before anything heavy is imported."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsebench.app.config.tree import conf_dir, groups, options, search_path
from sparsebench.runs.messages import did_you_mean

CHOICES = {"on_collapse": ("warn", "error", "floor"), "progress": ("auto", "rich", "lines", "none")}
"""Keys with few possible values."""
TAKEN = {
    "callbacks": "put your own callbacks into a method or a Python script with engine.Sparsity",
    "logger": "choose logger=csv, tensorboard, wandb or none",
    "default_root_dir": "choose output_root, name or run_dir",
    "enable_checkpointing": "choose trainer.save_seconds or trainer.save_steps",
    "enable_progress_bar": "choose progress=rich, lines or none",
    "enable_model_summary": "see sparsebench plan",
    "log_every_n_steps": "metrics are logged once per epoch",
    "use_distributed_sampler": "the data loaders divide the data among ranks themselves",
    "max_time": "training would end before its schedule: choose trainer.max_epochs or trainer.max_steps",
}
"""Arguments of Lightning's trainer that sparsebench sets itself -> the remedy."""
HYDRA = ("hydra.launcher", "hydra.sweeper")
"""Hydra's own keys that have an effect here."""
_WITH_VALUE = ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--cfg", "-c", "--package", "-p",
               "--experimental-rerun")  # fmt: skip
FLAGS = (*_WITH_VALUE, "--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m",
         "--shell-completion", "-sc", "--info", "-i")  # fmt: skip
"""Hydra's options, which train and plan take."""


def normalise(arguments: list[str]) -> list[str]:
    """Return a command line in Hydra's order: overrides first, options such as ``-m`` after them.

    ``density=0.1`` becomes ``sparsity=0.9`` with a message, ``+experiment=x`` becomes ``experiment=x``, and
    ``optimizer.base=adam``, the optimizer inside a wrapper, becomes ``optimizer@optimizer.base=adam``.
    """
    translated: list[str] = []
    known = set(groups())
    for argument in _overrides_first(arguments):
        key, found, value = argument.partition("=")
        if key == "density" and found:
            shares = [_number("density", part) for part in value.split(",")]
            argument = "sparsity=" + ",".join(f"{round(1 - share, 12):g}" for share in shares)
            print(f"sparsebench: density={value} is read as {argument}")
        elif found and key.startswith("+") and key.lstrip("+") in known:
            argument = argument.lstrip("+")
        elif found and re.fullmatch(r"optimizer(\.base)+", key):  # an option of a group, which Hydra writes with an @
            argument = f"optimizer@{key}={value}"
        translated.append(_quoted(argument))
    return translated


def _quoted(argument: str) -> str:
    """Put quotes around a plain value that Hydra's grammar cannot read, such as ``name=größe`` or a path with ``=``."""
    key, found, value = argument.partition("=")
    odd = "=" in value or not (value.isascii() or "," in value)  # with commas, several values
    plain = found and re.fullmatch(r"[^\s'\"\\()\[\]{}$:]+", value)
    return f"{key}='{value}'" if odd and plain and not argument.startswith("-") else argument


def _overrides_first(arguments: list[str]) -> list[str]:
    """Move options after the overrides: Hydra does not allow overrides on both sides of an option."""
    overrides, flags = list[str](), list[str]()
    given = iter(arguments)
    for argument in given:
        if not argument.startswith("-"):
            overrides.append(argument)
            continue
        flags.append(argument)
        if argument in _WITH_VALUE and (value := next(given, None)) is not None:
            flags.append(value)
    return [*overrides, *flags]


def check_overrides(arguments: list[str]) -> None:
    """Check that every key and every chosen option exists, and that sparsity is a number.

    Raises:
        ValueError: a key or an option does not exist, or has no effect here; the message says what to write.
    """
    folders = search_path(arguments)
    for folder in folders:
        if not Path(folder).is_dir():
            raise ValueError(f"--config-dir {folder} is not a folder: give one with files such as method/NAME.yaml")
    known = set(groups(folders))
    for argument in arguments:
        _check_key(argument, known)
        key, found, value = argument.lstrip("+").partition("=")
        if not found or re.search(r"[(\[{$]", value):
            continue
        if key == "sparsity":
            for share in value.split(","):
                _number(key, share)
        group = key.partition("@")[0]
        if group not in known:
            continue
        offered = options(group, folders)
        for choice in value.split(","):
            if choice not in offered and choice not in ("null", ""):
                raise ValueError(
                    f"unknown {group} {choice!r}{did_you_mean(choice, offered)}; available are {', '.join(offered)}"
                )


def _check_key(argument: str, known_groups: set[str]) -> None:
    """Raise an error for a key that is never read."""
    if argument.startswith("-"):
        option = argument.partition("=")[0]
        if option not in FLAGS:
            near = did_you_mean(option, FLAGS)
            raise ValueError(f"unknown option {option}{near}; keys are set without dashes, as in sparsity=0.9")
        return
    key = argument.lstrip("+~").partition("=")[0].partition("@")[0]
    root, _, rest = key.partition(".")
    if argument.startswith("~") and not rest and "/" not in key:
        hint = {"logger": "logger=none", "schedule": "schedule=constant", "monitor": "monitor=light"}.get(key)
        raise ValueError(f"~{key} cannot be left out: " + (f"choose {hint}" if hint else "every run has one"))
    leaf = rest.rpartition(".")[2]
    if leaf in _INSTANTIATION or (argument.startswith("~") and (root == "trainer" or leaf == "_target_")):
        raise ValueError(f"{argument} is not possible: {key} belongs to the option, choose another one of {root}")
    if root == "hydra" and rest and not key.startswith(HYDRA):
        raise ValueError(
            f"{key} has no effect here: runs are written to output_root/name/RUN; set output_root, name or run_dir"
        )
    if argument.startswith("+") and "/" not in key and root not in known_groups | _root_keys():
        words = sorted(known_groups | _root_keys())
        raise ValueError(f"unknown key {root!r}{did_you_mean(root, words)}; nothing would read it")
    if root == "trainer" and rest in TAKEN:
        raise ValueError(f"trainer.{rest} is set by sparsebench: {TAKEN[rest]}")


_INSTANTIATION = ("_partial_", "_args_", "_recursive_", "_convert_")
"""Keys that decide how an option is built, and that no user can change."""


def _root_keys() -> set[str]:
    """Return the keys at the top of the configuration, without importing Hydra."""
    text = (conf_dir() / "train.yaml").read_text(encoding="utf-8")
    return set(re.findall(r"^(\w+):", text, re.M)) - {"defaults"}


def check_config(config: Mapping[str, Any]) -> None:
    """Check the numbers of a resolved configuration.

    Raises:
        ValueError: a value is impossible; the message names the given and the allowed values.
    """
    sparsity = _number("sparsity", config["sparsity"])
    if not 0 <= sparsity < 1:
        hint = f"; did you mean {sparsity / 100:g}?" if 10 <= sparsity < 100 else ""
        raise ValueError(
            f"sparsity={sparsity:g} is impossible: choose a share of zeros of at least 0 and below 1{hint}"
        )
    trainer = config["trainer"]
    devices = trainer["devices"]
    if isinstance(devices, int) and devices < 1 and not (devices == -1 and trainer["accelerator"] != "cpu"):
        raise ValueError(
            f"trainer.devices={devices} is impossible: choose a number of devices of at least 1, a list, or auto"
        )
    if (trainer["max_epochs"] or -1) < 1 and (trainer["max_steps"] or -1) < 1:
        raise ValueError("training has no end: set trainer.max_epochs or trainer.max_steps to at least 1")
    pattern, method = config["choices"].get("pattern"), config["method"]
    if pattern not in (None, "unstructured") and "density" in method and "pattern" not in method:
        name = config["choices"]["method"]
        raise ValueError(f"method {name} takes no pattern, but pattern={pattern} was given: leave it out")
    if config.get("masks_from") and (config["choices"]["method"], config["choices"]["recipe"]) != ("given", "single"):
        raise ValueError(
            "masks_from keeps the given masks, but other methods and recipes choose their own: "
            "choose method=given recipe=single, or leave masks_from out"
        )
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
        raise ValueError(f"{key}={value} is not a number: choose {example}") from None
