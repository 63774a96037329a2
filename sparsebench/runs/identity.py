"""Identity of a run: a hash over everything that can change its result, and a readable folder name.

The hash contains no path of our Python modules, so packages may be rearranged, and no key at its neutral value, so a
new key does not rename finished runs (docs/decisions/0011).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from sparsebench.runs.folder import RunFolder

OURS = "sparsebench."

WITHOUT_EFFECT = (
    "name",
    "output_root",
    "data_root",
    "run_dir",
    "rerun",
    "progress",
    "logger",
    "monitor",
    "choices",
    "typed",
    "workers",
    "start_from",
    "masks_from",
)
"""Keys that cannot change a result, such as paths of files, loggers, and the typed overrides.

The contents of ``start_from`` and ``masks_from`` enter by their digests, among the fingerprints.
"""
# Keys of the device, its speed, and the order of floating-point sums.
_OUTSIDE_TRAINER = ("accelerator", "devices", "num_nodes", "strategy", "save_seconds", "save_steps", "compile",
                    "cuda_graphs", "channels_last")  # fmt: skip
_OUTSIDE_DATASET = ("root", "download", "workers", "resident")
_OUTSIDE_RECIPE = ("workers",)
# Keys that act only if a method refers to them, so that dense training is one run for all sparsities of a grid.
_REFERRED = ("sparsity", "distribution", "pattern", "every")

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "execution": (None,),
    "on_collapse": ("warn", "error"),
    "fingerprints": ({},),
    "dataset.limit": (None,),
    "dataset.split": ("random",),
    "dataset.test_limit": (None,),
    "dataset.normalise": (True,),
    "model.batch_norm": (False,),
    "model.dropout": (0.0,),
    "model.initial": ("kaiming",),
    "model.norm_outputs": (False,),
    "trainer.accumulate_grad_batches": (1,),
    "trainer.check_val_every_n_epoch": (1,),
    "trainer.gradient_clip_val": (None,),
    "trainer.label_smoothing": (0.0,),
    "trainer.limit_test_batches": (1.0,),
    "trainer.limit_train_batches": (1.0,),
    "trainer.limit_val_batches": (1.0,),
    "trainer.max_steps": (-1,),
    "trainer.num_sanity_val_steps": (0,),
    "recipe.look.hessian": (0,),
    "method.drop_by_sign": (False,),
    "method.grown_weights": ("zero",),
    "method.images": (None,),
    "method.scored_weights": ("trained",),
    "method.score": ({"_target_": "magnitude", "_partial_": True},),
    "method.schedule": ({"_target_": "cubic", "_partial_": True},),
}
"""Dotted key -> values equal to the behaviour before the key existed: such a key is left out of the hash.

Append only. Add a new key with the value that changes nothing; a listed value stays, even if the default of the key
changes.
"""

RENAMED = {"CycleChecks": "Look"}
"""Current name of our class or function -> its first name, which is hashed forever. Append only."""

CORRECTED: dict[str, int] = {"DSR": 1, "GraNet": 1, "ProbMask": 1, "SNFS": 1, "SRigL": 1, "SynFlow": 1, "VRPGE": 1}
"""Class of a method -> number of corrections to its rule under unchanged settings.

Raise the number with each such correction. The settings are equal but the result is not, so an old finished run must
not be returned for a new one.
"""


def identity(config: Mapping[str, Any]) -> str:
    """Return the hash of a run: 8 hexadecimal digits over everything that can change its result."""
    return _digest(essence(config))


def essence(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a frozen configuration that can change the result, in the form that is hashed."""
    kept = {key: value for key, value in config.items() if key not in (*WITHOUT_EFFECT, *_REFERRED)}
    for group, keys in (("trainer", _OUTSIDE_TRAINER), ("dataset", _OUTSIDE_DATASET), ("recipe", _OUTSIDE_RECIPE)):
        kept[group] = {key: value for key, value in config[group].items() if key not in keys}
    if "execution" in kept["method"]:  # the method has adopted it
        kept.pop("execution", None)
    if config.get("masks_from"):  # the masks are given: no budget is divided over layers
        asked = ("density", "distribution", "pattern")
        kept["method"] = {key: value for key, value in kept["method"].items() if key not in asked}
    if corrections := CORRECTED.get(_last_name(str(kept["method"].get("_target_", "")))):
        kept["corrected"] = corrections
    return _without_neutral(_without_paths(kept))


def _without_paths(value: Any) -> Any:
    """Replace our own targets by their last name: the group around them identifies the rest."""
    if isinstance(value, dict):
        entries = cast("dict[str, Any]", value)
        return {key: _last_name(part) if key == "_target_" else _without_paths(part) for key, part in entries.items()}
    return [_without_paths(part) for part in cast("list[Any]", value)] if isinstance(value, list) else value


def _last_name(target: str) -> str:
    name = target.rpartition(".")[2]
    return RENAMED.get(name, name) if target.startswith(OURS) else target


def _without_neutral(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, part in value.items():
        name = prefix + key
        if any(part == neutral and type(part) is type(neutral) for neutral in NEUTRAL.get(name, ())):
            continue
        kept[key] = _without_neutral(cast("dict[str, Any]", part), f"{name}.") if isinstance(part, dict) else part
    return kept


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=4).hexdigest()


def method_name(choices: Mapping[str, str]) -> str:
    """Return the method's name in tables, or the recipe's name if masks come from a recipe."""
    by_recipe = choices["method"] == "given" and choices["recipe"] != "single"
    return choices["recipe"] if by_recipe else choices["method"]


def model_name(config: Mapping[str, Any]) -> str:
    """Return the model's name in tables: ``timm:NAME`` for models from timm."""
    name = config["choices"]["model"]
    return f"timm:{str(config['model']['name']).removeprefix('timm:')}" if name == "timm" else name


def label(config: Mapping[str, Any]) -> str:
    """Return the words that describe a run, joined by dashes: method, model, data set, settings, seed.

    Only letters, digits, ``.``, ``_`` and ``-`` occur: neither a shell nor Hydra has to quote them.
    """
    choices = config["choices"]
    name = method_name(choices)
    parts = [name, model_name(config), choices["dataset"]]
    if choices["recipe"] not in ("single", name):
        parts.append(choices["recipe"])
    if "density" in config["method"] and not config.get("masks_from"):
        parts.append(f"sparsity{config['sparsity']:g}")
    parts += _settings(config)
    return "-".join(_plain(part) for part in [*parts, f"seed{config['seed']}"])


_NAMED = ("sparsity", "density", "seed", "method", "model", "dataset", "recipe", "debug")
_MODIFIERS = ("trainer", "optimizer", "schedule", "distribution", "pattern", "prunable", "experiment")


def _settings(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield a word for each typed setting that can change the result, so that cells have different names."""
    for override in sorted(config.get("typed", ())):
        key, _, value = override.lstrip("+").partition("=")
        key, group, name = key.partition("@")[0], key.partition(".")[0], key.rpartition(".")[2]
        referred = key not in _REFERRED or "${" in value or _refers(config["method"], key)
        outside = (
            key in WITHOUT_EFFECT or group in ("logger", "monitor", "hydra") or key.partition(".")[2] in _without(group)
        )
        told = key in _NAMED or key == "model.name" or name.startswith("_") or value == config["name"]
        if told or outside or not referred or not re.fullmatch(r"[\w.+/:-]+", value):
            continue
        yield value.rpartition("/")[2] if key in _MODIFIERS else f"{name}{value}"


def _refers(method: Mapping[str, Any], key: str) -> bool:
    return key in method or (key == "distribution" and "density" in method)


def _without(group: str) -> tuple[str, ...]:
    known = {"trainer": _OUTSIDE_TRAINER, "dataset": _OUTSIDE_DATASET, "recipe": _OUTSIDE_RECIPE}
    return known.get(group, ())


def _plain(word: str) -> str:
    """Return a word without characters that a shell or Hydra would require to be quoted."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", word).strip("-")


def run_folder(config: Mapping[str, Any]) -> Path:
    """Return the folder of a run: the existing one with its hash, otherwise the one to create."""
    if config["run_dir"] is not None:
        return Path(config["run_dir"])
    place, name = Path(config["output_root"]) / config["name"], identity(config)
    present = sorted(place.glob(f"*--{name}"))
    return present[0] if present else place / f"{label(config)[:200]}--{name}"


def finished_before(config: Mapping[str, Any]) -> Path | None:
    """Return the finished run of this configuration under the name given by an earlier version, if any.

    Versions up to 0.1 put commas into folder names and had neither fingerprints of data nor digests of source files. If
    the rule of the method was corrected since, there is no such run.
    """
    wanted = essence({**config, "fingerprints": {}})
    if "corrected" in wanted:  # it did not exist in those versions
        return None
    bare = _digest(wanted)
    return _of_earlier_versions(Path(config["output_root"]) / config["name"]).get(bare)


@lru_cache(maxsize=16)
def _of_earlier_versions(place: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in sorted(place.glob("*,*--*")):
        run = RunFolder(folder)
        if not run.is_finished():
            continue
        try:
            found[identity(run.config())] = folder
        except Exception:  # damaged, or not ours: it cannot be the requested run
            continue
    return found
