"""Write the reference pages of the configuration from the YAML files of conf/.

A key is explained by its comment, or by the docstring of the configured class or function, so that no text is
duplicated.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
CONF, PAGES = ROOT / "conf", ROOT / "docs" / "reference"
TABLE = ["| key | default | meaning |", "|---|---|---|"]

GROUPS = {
    "method": "What differs from dense training",
    "recipe": "Programs over several fits",
    "model": "Networks",
    "dataset": "Data sets",
    "pattern": "Where zeros may lie",
    "distribution": "How the budget is divided over layers",
    "prunable": "Which parameters may be sparse",
    "optimizer": "Optimizers",
    "schedule": "Learning-rate schedules",
    "trainer": "Devices, length and precision",
    "logger": "Where metrics go",
    "monitor": "Measurements during training",
    "debug": "Settings for a quick look",
    "hydra/launcher": "Where the cells of a grid run",
    "hydra/sweeper": "Which cells there are",
}
NOTES = {
    "method": """\
`${sparsity}`, `${every}`, `${distribution}` and `${pattern}` are the keys of the top level, which all methods share;
`${density:...}` is 1 minus a sparsity, `${or:a,b}` is b where a is null.
""",
    "trainer": "Keys without a comment are those of Lightning's Trainer.\n",
    "optimizer": "Keys without a comment are those of `torch.optim`.\n",
}
HOME = """\
# Configuration

Any key can be set on the command line: `sparsebench train seed=1 optimizer.lr=0.05`. A group is chosen by its name,
`method=rigl`, and its keys are set below it, `method.until=0.5`. `sparsebench train --cfg job` prints the whole
configuration of a run, `sparsebench list GROUP` the options.

## Top level
"""
EXPERIMENTS = """\
# experiment

Presets, unchanged; `experiment=NAME` applies one, and later overrides on the command line take precedence. Comments
state the source of each value.
"""


@dataclass(frozen=True)
class Key:
    """A key of a YAML file: dotted name, default as written, comment."""

    name: str
    default: str
    comment: str


def keys_of(text: str) -> Iterator[Key]:
    """Read the keys of a YAML file with their comments, without the defaults list and Hydra's own block."""
    stack: list[tuple[int, str]] = []
    for line in text.splitlines():
        found = re.match(r"^( *)([\w./@-]+):(?: +(.*?))?(?: *(?<!\S)# (.*))?$", line)
        if found is None:
            continue
        indent, name, value, comment = len(found[1]), found[2], (found[3] or "").strip(), found[4] or ""
        stack = [*((depth, part) for depth, part in stack if depth < indent), (indent, name)]
        if stack[0][1] not in ("defaults", "hydra"):
            yield Key(".".join(part for _, part in stack), value, comment)


def parent_of(path: Path) -> Path | None:
    """Return the YAML of the same group that this one is based on."""
    entries = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("defaults", [])
    names = [entry for entry in entries if isinstance(entry, str) and entry != "_self_"]
    parent = path.with_name(f"{names[0]}.yaml") if names else None
    return parent if parent is not None and parent.exists() else None


def merged(path: Path) -> dict[str, Key]:
    """Return the keys of an option including inherited ones; nested objects are named by their class."""
    parent = parent_of(path)
    keys = {} if parent is None else merged(parent)
    for key in keys_of(path.read_text(encoding="utf-8")):
        comment = key.comment or (keys[key.name].comment if key.name in keys else "")
        keys[key.name] = Key(key.name, key.default, comment)
        outer, _, last = key.name.rpartition(".")
        if last == "_target_" and outer:
            keys[outer] = Key(outer, key.default.rpartition(".")[2], keys[outer].comment)
    return keys


def explained(target: str) -> dict[str, str]:
    """Return the explanations of arguments from the docstrings of a class and its bases, or of a function."""
    module, _, name = target.rpartition(".")
    built: Any = getattr(importlib.import_module(module), name)
    said: dict[str, str] = {}
    for owner in reversed(built.__mro__ if inspect.isclass(built) else [built]):
        if not getattr(owner, "__module__", "").startswith("sparsebench"):
            continue
        block = re.search(r"^Args:\n((?:(?: .*)?\n?)*)", inspect.cleandoc(owner.__doc__ or ""), re.M)
        for found in re.finditer(r"^ {4}\*{0,2}(\w+): (.*(?:\n {5,}.*)*)", block[1] if block else "", re.M):
            said[found[1]] = " ".join(found[2].split())
    return said


def rows(keys: list[Key], said: dict[str, str]) -> list[str]:
    """Return the table of the given keys."""
    lines = []
    for key in keys:
        text = (key.comment or said.get(key.name, "")).replace("``", "`").replace("|", "\\|")
        lines.append(f"| `{key.name}` | {f'`{key.default}`' if key.default else ''} | {text} |")
    return [*TABLE, *lines, ""] if lines else []


def section(path: Path, group: str) -> list[str]:
    """Return the section of one option."""
    name = path.relative_to(CONF / group).with_suffix("").as_posix()
    sentence = next(
        (line[2:] for line in path.read_text(encoding="utf-8").splitlines() if re.match(r"# (?!@)", line)), ""
    )
    keys = merged(path)
    target = keys.pop("_target_", None)
    card = ROOT / "docs" / {"method": "methods", "recipe": "recipes"}.get(group, "none") / f"{name}.md"
    facts = [f"`{group}={name}`"]
    facts += [f"builds `{target.default}`"] if target is not None else []
    facts += [f"[card](../../{card.parent.name}/{name}.md)"] if card.exists() else []
    plain = [key for key in keys.values() if not key.name.rpartition(".")[2].startswith("_")]
    said = explained(target.default) if target is not None else {}
    return [f"## {name}", "", sentence, "", " · ".join(facts), "", *rows(plain, said)]


def pages() -> Iterator[tuple[Path, list[str]]]:
    """Yield the top-level keys, a page for each group, and the unchanged experiments."""
    folder, names = PAGES / "configuration", {group: group.replace("/", "_") for group in GROUPS}
    top = [key for key in keys_of((CONF / "train.yaml").read_text(encoding="utf-8")) if "." not in key.name]
    home = [HOME, *rows(top, {}), "## Groups", "", "| group | purpose |", "|---|---|"]
    home += [f"| [`{group}`]({names[group]}.md) | {text} |" for group, text in GROUPS.items()]
    home += ["| [`experiment`](experiment.md) | Presets: a whole experiment under one name |", ""]
    yield folder / "index.md", [*home, "```{toctree}", ":hidden:", "", *names.values(), "experiment", "```"]
    for group, text in GROUPS.items():
        page = [f"# {group}", "", f"{text}. Choose with `{group}=NAME`.", "", NOTES.get(group, "")]
        for path in sorted((CONF / group).rglob("*.yaml")):
            page += section(path, group)
        yield folder / f"{names[group]}.md", page
    page = [EXPERIMENTS]
    for path in sorted((CONF / "experiment").rglob("*.yaml")):
        name = path.relative_to(CONF / "experiment").with_suffix("").as_posix()
        page += [f"## {name}", "", "```yaml", path.read_text(encoding="utf-8").rstrip(), "```", ""]
    yield folder / "experiment.md", page
