"""Convert configuration values to the intended types, or raise a one-line error.

YAML reads ``name=2024`` as a number, ``1e2`` as a float and ``logger.tags=baseline`` as a string, but users mean a
string, a whole number and a list.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

TEXTS = ("name", "execution")
PATHS = ("start_from", "masks_from", "output_root", "run_dir", "data_root", "dataset.root")
LISTS = ("logger.tags", "prunable.types", "prunable.include", "prunable.exclude", "distribution.dense")
WHOLE = {
    "seed": 0,
    "dataset.batch_size": 1,
    "dataset.eval_batch_size": 1,
    "dataset.limit": 1,
    "dataset.test_limit": 1,
    "dataset.workers": 0,
    "trainer.max_epochs": -1,
    "trainer.max_steps": -1,
    "trainer.num_nodes": 1,
    "trainer.accumulate_grad_batches": 1,
    "trainer.num_sanity_val_steps": -1,
    "trainer.check_val_every_n_epoch": 1,
    "trainer.save_steps": 1,
    "recipe.cycles": 1,
    "recipe.particles": 1,
    "recipe.workers": 1,
}
"""Keys with whole numbers, each with its smallest sensible value; null keeps its meaning."""
_MOST = 2**32 - 1  # the range of seeds, and larger than any count
NUMBERS = {"trainer.save_seconds": 0.0, "trainer.gradient_clip_val": 0.0, "trainer.label_smoothing": 0.0}
"""Keys with numbers, each with its smallest sensible value."""
PARTS = ("trainer.limit_train_batches", "trainer.limit_val_batches", "trainer.limit_test_batches")
"""Keys with a whole number of batches, or a share of them."""
NEVER_NULL = ("seed", "dataset.batch_size", "trainer.save_seconds", "trainer.label_smoothing", *PARTS)


def tidy(config: dict[str, Any]) -> None:
    """Convert values in place.

    Raises:
        ValueError: a value has the wrong type or range; the message names the given and the allowed values.
    """
    for key in TEXTS:
        _replace(config, key, lambda _, value: str(value))
    for key in PATHS:
        _replace(config, key, lambda _, value: str(Path(str(value)).expanduser()))
    _replace(config, "distribution.path", lambda _, value: os.path.expanduser(str(value)))
    for key in LISTS:
        _replace(config, key, _words)
    for key in WHOLE:
        _replace(config, key, _whole)
    for key in NUMBERS:
        _replace(config, key, _number)
    for key in PARTS:
        _replace(config, key, _part)
    _check_everywhere(config)
    for key in NEVER_NULL:
        group, name = _place(config, key)
        if name in group and group[name] is None:
            raise ValueError(f"{key}=null is impossible: choose a number")


def _place(config: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    group, _, name = key.rpartition(".")
    found = config.get(group) if group else config
    return (found if isinstance(found, dict) else {}), name


def _replace(config: dict[str, Any], key: str, convert: Any) -> None:
    group, name = _place(config, key)
    if group.get(name) is not None:
        group[name] = convert(key, group[name])


def _check_everywhere(value: Any, name: str = "") -> None:
    """Raise an error for an empty ``_target_`` or a number that is not finite, at any depth."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name}={value} is not a finite number: choose one")
    if isinstance(value, dict):
        for key, part in value.items():
            full = f"{name}.{key}" if name else str(key)
            if key == "_target_" and not (isinstance(part, str) and part.strip(".")):
                raise ValueError(
                    f"{full}={_shown(part)} does not name a class or function: give one, such as torch.optim.SGD"
                )
            _check_everywhere(part, full)
    elif isinstance(value, list):
        for part in value:
            _check_everywhere(part, name)


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)


def _words(key: str, value: Any) -> list[str]:
    """Return a list of words; a layer may be called by its number."""
    words: list[Any] = value if isinstance(value, list) else [value]
    if any(isinstance(word, bool) or not isinstance(word, str | int) for word in words):
        raise ValueError(f"{key}={value} is not a list of words: give {key}=[a,b]")
    return [str(word) for word in words]


def _whole(key: str, value: Any) -> int:
    least = WHOLE[key]
    allowed = f"choose a whole number of at least {least}"
    if not _is_number(value):
        raise ValueError(f"{key}={_shown(value)} is not a number: {allowed}")
    if value > _MOST:
        raise ValueError(f"{key}={value} is impossible: choose a whole number of at most {_MOST}")
    if value != int(value) or value < least:
        raise ValueError(f"{key}={value:g} is impossible: {allowed}")
    return int(value)


def _number(key: str, value: Any) -> float:
    if not _is_number(value):
        raise ValueError(f"{key}={_shown(value)} is not a number: choose a number of at least {NUMBERS[key]:g}")
    if value < NUMBERS[key]:
        raise ValueError(f"{key}={value:g} is impossible: choose a number of at least {NUMBERS[key]:g}")
    return value


def _part(key: str, value: Any) -> int | float:
    sound = _is_number(value) and value > 0
    if not sound or (isinstance(value, float) and value > 1 and value != int(value)):
        raise ValueError(
            f"{key}={_shown(value)} is impossible: choose a number of batches of at least 1, or a share in (0, 1]"
        )
    return int(value) if value > 1 else value


def _shown(value: Any) -> str:
    return {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)
