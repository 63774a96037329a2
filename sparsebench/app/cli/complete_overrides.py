"""Tab completion of ``train`` and ``plan``: groups, keys and values, read from the current YAML tree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sparsebench.app.cli.arguments import folders, starting
from sparsebench.app.config.check import CHOICES
from sparsebench.app.config.tree import conf_dir, groups, options, search_path
from sparsebench.runs.mappings import dotted

FLAGS = {
    "train": ("-m", "--multirun", "--help", "--config-dir", "--cfg"),
    "plan": ("-m", "--multirun", "--help", "--config-dir", "--execution", "--json"),
}
_HYDRA = ("hydra/launcher", "hydra/sweeper")


def complete(verb: str, before: list[str], last: str) -> list[str]:
    """Return possible completions of the last word."""
    previous = before[-1] if before else ""
    if previous in ("--config-dir", "-cd"):
        return folders(last)
    if previous == "--cfg":
        return starting(last, ["job"])
    if last.startswith("-"):
        return starting(last, FLAGS[verb])
    places = [folder for folder in search_path(before) if folder.is_dir()]
    key, found, value = last.partition("=")
    return _value(key, value, before, places) if found else _keys(last, before, places)


def _groups(places: list[Path]) -> list[str]:
    return [*groups(places), *_HYDRA]


def _value(key: str, value: str, before: list[str], places: list[Path]) -> list[str]:
    """Complete the value after ``key=``; after a comma, the next value of a sweep."""
    name = key.lstrip("+~")
    done, comma, _ = value.rpartition(",")
    chosen = f"{key}={done}{comma}"
    if name in _groups(places):
        offered: Iterable[str] = set(options(name, places)) - set(done.split(","))
    else:
        offered = CHOICES.get(name) or _defaults(dict(_config(before, places)).get(name))
    return starting(f"{key}={value}", (chosen + option for option in offered))


def _defaults(value: Any) -> list[str]:
    if isinstance(value, bool):
        return ["true", "false"]
    plain = isinstance(value, int | float) or (isinstance(value, str) and "$" not in value and " " not in value)
    return [str(value)] if plain else []


def _keys(last: str, before: list[str], places: list[Path]) -> list[str]:
    """Complete a key level by level; groups end with = for a choice and with . for their keys."""
    sign = last[: len(last) - len(last.lstrip("+~"))]
    start = last[len(sign) :]
    depth = start.count(".")
    found = {f"{name}=" for name in _groups(places)} if not depth else set()
    for name, value in _config(before, places):
        if name.count(".") == depth:
            found.add(f"{name}." if isinstance(value, dict) else f"{name}=")
    return [sign + word for word in starting(start, found)]


def _config(before: list[str], places: list[Path]) -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values of the default configuration with the options chosen on the line."""
    top = _load(conf_dir() / "train.yaml")
    entries = [entry for entry in top.pop("defaults", []) if isinstance(entry, dict)]
    usual = {group.removeprefix("override "): option for entry in entries for group, option in entry.items()}
    said = dict(word.split("=", 1) for word in before if "=" in word)
    for group in (*_HYDRA, *usual):
        option = said.get(group, usual.get(group))
        if " " not in group and option in options(group, places):
            name = group.replace("/", ".")
            yield name.split(".")[0], {}
            yield name, {}
            yield from _entries(_option(group, option, places), f"{name}.")
    yield from _entries(top)


def _option(group: str, option: str, places: list[Path]) -> dict[str, Any]:
    """Read an option of a group, including the options it inherits from."""
    path = next(p for folder in reversed(places) if (p := folder / group / f"{option}.yaml").is_file())
    own = _load(path)
    merged: dict[str, Any] = {}
    for base in own.pop("defaults", []):
        if isinstance(base, str) and base != "_self_" and base in options(group, places):
            merged |= _option(group, base, places)
    return merged | own


def _load(path: Path) -> dict[str, Any]:
    from sparsebench.results.published import load_yaml

    return load_yaml(path.read_text(encoding="utf-8")) or {}


def _entries(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values, except keys that users do not set."""
    for key, value in dotted(config, groups=True).items():
        if not {"_target_", "_partial_", "hydra"}.intersection(key.split(".")):
            yield prefix + key, value
