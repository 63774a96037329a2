"""Which run a configuration is: a hash over what can change the result, and a folder that a person can read."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# What cannot change the result: where things lie, who watches, which device computes.
_OUTSIDE = ("name", "output_root", "data_root", "run_dir", "rerun", "progress", "logger", "monitor", "choices")
_OUTSIDE_TRAINER = ("accelerator", "devices", "num_nodes", "strategy", "save_seconds", "save_steps", "compile")
_OUTSIDE_DATASET = ("root", "download", "workers", "resident")
# What acts only where a method refers to it, so that dense training is one run whatever the sparsity of the grid.
_REFERRED = ("sparsity", "distribution", "pattern", "every")


def identity(config: Mapping[str, Any]) -> str:
    """Return 8 hexadecimal digits over everything in a resolved configuration that can change the result."""
    return hashlib.blake2b(json.dumps(essence(config), sort_keys=True).encode(), digest_size=4).hexdigest()


def essence(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what can change the result, out of a resolved configuration."""
    kept = copy.deepcopy({key: value for key, value in config.items() if key not in (*_OUTSIDE, *_REFERRED)})
    for key in _OUTSIDE_TRAINER:
        kept["trainer"].pop(key, None)
    for key in _OUTSIDE_DATASET:
        kept["dataset"].pop(key, None)
    kept["recipe"].pop("workers", None)
    execution = kept.pop("execution", None)
    if execution is not None and "execution" not in kept["method"]:
        kept["execution"] = execution
    if kept.get("on_collapse") != "floor":  # warnings change nothing; older runs have no such key
        kept.pop("on_collapse", None)
    return kept


def method_name(choices: Mapping[str, str]) -> str:
    """Return what tables call the method: the recipe's name where masks are the recipe's affair."""
    return choices["recipe"] if choices["method"] == "given" else choices["method"]


def label(config: Mapping[str, Any]) -> str:
    """Return what a person wants to know about a run, in one word."""
    choices = config["choices"]
    model = choices["model"] if choices["model"] != "timm" else f"timm-{config['model']['name']}"
    name = method_name(choices)
    parts = [name, model, choices["dataset"]]
    if choices["recipe"] not in ("single", name):
        parts.append(choices["recipe"])
    if "density" in config["method"]:
        parts.append(f"sparsity={config['sparsity']:g}")
    return ",".join([*parts, f"seed={config['seed']}"]).replace("/", "-")


def run_folder(config: Mapping[str, Any]) -> Path:
    """Return the folder of a run: readable, and unique by its hash."""
    if config["run_dir"] is not None:
        return Path(config["run_dir"])
    return Path(config["output_root"]) / config["name"] / f"{label(config)}--{identity(config)}"
