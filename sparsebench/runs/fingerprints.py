"""Fingerprints of files that a configuration refers to: data sets and foreign source code.

They are part of the frozen configuration, and so of the run's identity: with other images or an edited method, it is
another run. Only the standard library is used, and no foreign code is imported.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from sparsebench.runs.files import RESULT
from sparsebench.runs.mappings import dotted
from sparsebench.runs.walk import walk

_SELF_CHECKING = ("CIFAR10", "CIFAR100", "Digits", "Synthetic")
"""Our data sets that check their files against published checksums, or come with their images."""
_INSIDE = {"TinyImageNet": "tiny-imagenet-200", "MNIST": "MNIST/raw", "FashionMNIST": "FashionMNIST/raw"}
"""Folder of the files of a set, below a root that may hold other sets."""
_ORIGINALS = {"MNIST": "edd03d5d", "FashionMNIST": "e16056d2"}
"""Fingerprints of the published files. They are not recorded, so that a run before the download equals one after it."""
_NAMES_OF_FILES = ("path", "checkpoint_path", "file")
"""Last parts of keys that name a file: a table of densities, weights of timm."""
_FOLDER_OF_MODEL = "local-dir:"
_CONTENTS_UP_TO = 16  # files in a folder; for so few, contents are read in addition to sizes
_SIZES_UP_TO = 100_000  # files; for more, only their names and number are used, since a stat of each would take minutes
_INSTALLED = tuple(str(Path(sysconfig.get_path(kind)).resolve()) for kind in ("stdlib", "purelib", "platlib"))


def fingerprints(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the fingerprints of a configuration: ``data`` if files matter, and one per foreign module.

    Args:
        config: a resolved configuration.

    Returns:
        Name -> 8 hexadecimal digits. Missing data have no fingerprint.
    """
    found: dict[str, str] = {}
    dataset = config["dataset"]
    target = str(dataset.get("_target_", ""))
    known = target.startswith("sparsebench.") and target.rpartition(".")[2] in _SELF_CHECKING
    if dataset.get("root") and not known:
        name = target.rpartition(".")[2]
        folder = Path(dataset["root"])
        inside = folder / _INSIDE.get(name, ".")
        folder = inside if inside.is_dir() else folder
        if folder.is_dir() and (seen := tree(folder)) != _ORIGINALS.get(name):
            found["data"] = seen
    for key in ("start_from", "masks_from"):
        if config.get(key):
            found[key] = "zeros" if (key, config[key]) == ("masks_from", "zeros") else file_digest(key, config[key])
    for key, path in _named_files(config):
        if path.is_file():
            found[key] = _digest_of(path)
        elif path.is_dir():
            found[key] = tree(path)
    targets = set(_targets(config))
    if "." in str(config.get("execution")):  # a user's back end
        targets.add(config["execution"])
    for target in sorted(targets):
        if not target.startswith("sparsebench.") and (source := find_source(target)) is not None:
            found[target.rpartition(".")[0]] = source_digest(source)
    return found


def file_digest(key: str, place: str) -> str:
    """Return 8 hexadecimal digits over a file of weights or masks, or over the files of a finished run.

    Raises:
        ValueError: the file does not exist, or the run is not finished.
    """
    path = Path(place)
    if (
        path.is_dir()
    ):  # archives of equal tensors may differ in their bytes, so the digests recorded by the run are used
        try:
            result = json.loads((path / RESULT).read_text(encoding="utf-8"))
            return str(result["weights_digest" if key == "start_from" else "mask_digest"])
        except (OSError, ValueError, KeyError):
            raise ValueError(f"{key}={place} holds no finished run: give the folder of one, or a file") from None
    if not path.is_file():
        raise ValueError(f"{key}={place} does not exist: give the folder of a finished run, or a file")
    return _digest_of(path)


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=4)).hexdigest()


def _named_files(config: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """Yield the dotted keys that name a file or folder whose contents decide the result, with its place.

    A distribution counts where a method or recipe refers to it.
    """
    for key, value in dotted(config).items():
        if not isinstance(value, str) or key.partition(".")[0] in ("logger", "monitor", "distribution"):
            continue
        if key.rpartition(".")[2] in _NAMES_OF_FILES:
            yield key, Path(value)
        elif value.startswith(_FOLDER_OF_MODEL):
            yield key, Path(value.removeprefix(_FOLDER_OF_MODEL))


@lru_cache(maxsize=64)
def tree(folder: Path) -> str:
    """Return 8 hexadecimal digits over the names and sizes of all files below a folder, in any location.

    For a folder of few files, such as sets in one archive each, the contents are included as well.
    """
    hashed, files = hashlib.blake2b(digest_size=4), 0
    for place, folders, names in walk(folder):
        names = sorted(name for name in names if not name.startswith("."))
        hashed.update(f"{os.path.relpath(place, folder)}\0{len(names)}\0".encode())
        for path in (Path(place, name) for name in names):
            files += 1
            size = path.stat().st_size if files <= _SIZES_UP_TO else 0
            hashed.update(f"{path.name}\0{size}\0".encode())
            if len(names) <= _CONTENTS_UP_TO and not folders and files <= _CONTENTS_UP_TO:
                hashed.update(path.read_bytes())
    return hashed.hexdigest()


def _targets(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        entries = cast("Mapping[str, Any]", value)
        if isinstance(entries.get("_target_"), str):
            yield entries["_target_"]
        for part in entries.values():
            yield from _targets(part)
    elif isinstance(value, list):
        for part in cast("list[Any]", value):
            yield from _targets(part)


def find_source(dotted: str) -> Path | None:
    """Return the source file of a dotted name, located as Python would but without importing it.

    None for installed packages, whose version the result records, and for names without a source file.
    """
    parts = dotted.split(".")
    for entry in sys.path:
        for length in range(len(parts), 0, -1):
            base = Path(entry or ".").joinpath(*parts[:length])
            for path in (base.with_suffix(".py"), base / "__init__.py"):
                if path.is_file():
                    resolved = path.resolve()
                    return None if str(resolved).startswith(_INSTALLED) else resolved
    return None


def source_digest(source: Path) -> str:
    """Return 8 hexadecimal digits over a source file and all files of the same author that it imports."""
    hashed = hashlib.blake2b(digest_size=4)
    for path in sorted(_with_imports(source)):
        hashed.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return hashed.hexdigest()


def _with_imports(source: Path) -> set[Path]:
    found, waiting = set[Path](), [source]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        try:
            names = list(_imported(ast.parse(path.read_bytes()), path))
        except SyntaxError:  # building the run will report this
            continue
        waiting += [other for name in names if (other := find_source(name)) is not None]
    return found


def _imported(tree: ast.Module, path: Path) -> Iterator[str]:
    """Yield the dotted names that a file imports, relative ones made absolute as far as ``sys.path`` reaches."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if not alias.name.startswith("sparsebench"))
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                folder = path.parents[node.level - 1]
                entry = next((e for e in map(Path, sys.path) if folder.is_relative_to(e.resolve())), folder)
                base = ".".join([*folder.relative_to(entry.resolve()).parts, *([base] if base else [])])
            if base and not base.startswith("sparsebench"):
                yield from (f"{base}.{alias.name}" for alias in node.names)
