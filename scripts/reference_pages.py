"""Write the reference pages of the documentation from code: configuration, command line, results, Python.

Called by `scripts/docs`; the pages lie in docs/reference/ and are not committed. A key of the configuration is explained
by the comment behind it, or else by the docstring of what it configures, so that nothing is said twice.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import io
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
CONF, PAGES = ROOT / "conf", ROOT / "docs" / "reference"

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
    "monitor": "What is measured on the way",
    "debug": "Settings for a quick look",
    "hydra/launcher": "Where the cells of a grid run",
    "hydra/sweeper": "Which cells there are",
}
API = {
    "functional": "Tensors to tensors: distributions, selections, scores, schedules, projections",
    "patterns": "Where zeros may lie",
    "sparse": "The sparse state: parameters, masks, memory",
    "optim": "Optimizers with a dual variable",
    "methods": "Methods, and the interface of a method",
    "execution": "How weights are computed",
    "cost": "The ledger of training cost",
    "engine": "The Lightning callback and module",
    "data": "Data sets",
    "models": "Networks by name",
    "fits": "One training, memoised on disk",
    "recipes": "Programs over fits",
}
FUNCTIONAL = ("distribution", "select", "score", "schedule", "prox", "estimate")


@dataclass(frozen=True)
class Key:
    """A key of a YAML: dotted name, default as written, comment."""

    name: str
    default: str
    comment: str


# -- configuration --------------------------------------------------------------------------------------------------


def keys_of(text: str) -> Iterator[Key]:
    """Read the keys of a YAML with the comments behind them, the defaults list and Hydra's own block left out."""
    stack: list[tuple[int, str]] = []
    for line in text.splitlines():
        found = re.match(r"^( *)([\w./@-]+):(?: +(.*?))?(?: *(?<!\S)# (.*))?$", line)
        if found is None:
            continue
        indent, name, value, comment = len(found[1]), found[2], (found[3] or "").strip(), found[4] or ""
        stack = [(depth, part) for depth, part in stack if depth < indent]
        stack.append((indent, name))
        if stack[0][1] not in ("defaults", "hydra"):
            yield Key(".".join(part for _, part in stack), value, comment)


def parent_of(path: Path) -> Path | None:
    """Return the YAML of the same group that this one starts from."""
    entries = (yaml.safe_load(path.read_text()) or {}).get("defaults", [])
    names = [entry for entry in entries if isinstance(entry, str) and entry != "_self_"]
    parent = path.with_name(f"{names[0]}.yaml") if names else None
    return parent if parent is not None and parent.exists() else None


def merged(path: Path) -> dict[str, Key]:
    """Return the keys of an option, inherited ones included."""
    parent = parent_of(path)
    keys = {} if parent is None else merged(parent)
    for key in keys_of(path.read_text()):
        comment = key.comment or (keys[key.name].comment if key.name in keys else "")
        keys[key.name] = Key(key.name, key.default, comment)
    return keys


def explained(target: Any) -> dict[str, str]:
    """Return what the docstrings of a class and its bases, or of a function, say about each argument."""
    said: dict[str, str] = {}
    for owner in reversed(target.__mro__ if inspect.isclass(target) else [target]):
        if not getattr(owner, "__module__", "").startswith("sparsebench"):
            continue
        text = inspect.cleandoc(owner.__doc__ or "")
        block = re.search(r"^Args:\n((?:(?: .*)?\n?)*)", text, re.M)
        for found in re.finditer(r"^ {4}\*{0,2}(\w+): (.*(?:\n {5,}.*)*)", block[1] if block else "", re.M):
            said[found[1]] = " ".join(found[2].split())
    return said


def meaning(key: Key, said: dict[str, str]) -> str:
    """Return the explanation of a key as Markdown that fits into a cell."""
    text = key.comment or said.get(key.name, "")
    return text.replace("``", "`").replace("|", "\\|")


def option_page(path: Path, group: str) -> list[str]:
    """Return the section of one option."""
    name = path.relative_to(CONF / group).with_suffix("").as_posix()
    lines = [line[2:] for line in path.read_text().splitlines() if re.match(r"# (?!@)", line)]
    keys = merged(path)
    target = keys.pop("_target_", None)
    built = None if target is None else importlib.import_module(target.default.rpartition(".")[0])
    said = {} if built is None else explained(getattr(built, target.default.rpartition(".")[2]))  # type: ignore[union-attr]
    page = [f"## {name}", "", lines[0] if lines else "", ""]
    card = ROOT / "docs" / {"method": "methods", "recipe": "recipes"}.get(group, "") / f"{name}.md"
    facts = [f"`{group}={name}`"]
    facts += [f"builds `{target.default}`"] if target is not None else []
    facts += [f"[card](../../{card.parent.name}/{name}.md)"] if group in ("method", "recipe") and card.exists() else []
    page += [" · ".join(facts), ""]
    rows = [key for key in keys.values() if not key.name.rpartition(".")[2].startswith("_")]
    if rows:
        page += ["| key | default | meaning |", "|---|---|---|"]
        page += [f"| `{key.name}` | {f'`{key.default}`' if key.default else ''} | {meaning(key, said)} |" for key in rows]
        page += [""]
    return page


def write_configuration() -> None:
    """Write the top-level keys, a page for each group, and the experiments as they stand."""
    folder = PAGES / "configuration"
    top = [key for key in keys_of((CONF / "train.yaml").read_text()) if "." not in key.name]
    page = ["# Configuration", "", "Any key can be set on the command line: `sparsebench train seed=1 optimizer.lr=0.05`.",
            "A group is chosen by its name, `method=rigl`, and its keys are set below it, `method.until=0.5`.",
            "`sparsebench train --cfg job` prints the whole configuration of a run, `sparsebench list GROUP` the options.",
            "", "## Top level", "", "| key | default | meaning |", "|---|---|---|"]  # fmt: skip
    page += [f"| `{key.name}` | `{key.default}` | {meaning(key, {})} |" for key in top]
    page += ["", "## Groups", "", "| group | what it decides |", "|---|---|"]
    names = {group: group.replace("/", "_") for group in GROUPS}
    page += [f"| [`{group}`]({names[group]}.md) | {text} |" for group, text in GROUPS.items()]
    page += ["| [`experiment`](experiment.md) | Presets: a whole experiment under one name |"]
    page += ["", "```{toctree}", ":hidden:", "", *names.values(), "experiment", "```"]
    write(folder / "index.md", page)
    for group, text in GROUPS.items():
        page = [f"# {group}", "", f"{text}. Choose with `{group}=NAME`.", ""]
        for path in sorted((CONF / group).rglob("*.yaml")):
            page += option_page(path, group)
        write(folder / f"{names[group]}.md", page)
    page = ["# experiment", "", "Presets, as they stand; `experiment=NAME` applies one, and everything behind it on the",
            "command line still wins. Comments say where a value comes from.", ""]  # fmt: skip
    for path in sorted((CONF / "experiment").rglob("*.yaml")):
        name = path.relative_to(CONF / "experiment").with_suffix("").as_posix()
        page += [f"## {name}", "", "```yaml", path.read_text().rstrip(), "```", ""]
    write(folder / "experiment.md", page)


# -- command line ---------------------------------------------------------------------------------------------------


def help_of(*arguments: str) -> str:
    """Return what `sparsebench ARGUMENTS --help` prints."""
    from sparsebench.app.main import main

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main([*arguments, "--help"])
    return said.getvalue().rstrip()


def write_verbs() -> None:
    """Write the help of every verb."""
    from sparsebench.app.main import VERBS

    page = ["# Command line", "", "`sparsebench VERB --help` prints what stands here.", ""]
    page += ["| verb | what it does |", "|---|---|", *(f"| [`{v}`](#{v}) | {text} |" for v, text in VERBS.items()), ""]
    for verb, text in VERBS.items():
        page += [f"## {verb}", "", f"{text[0].upper()}{text[1:]}.", ""]
        if verb == "train":
            page += ["Arguments are overrides of the [configuration](configuration/index.md); `-m` (`--multirun`) makes",
                     "a grid of values separated by commas, `--config-dir FOLDER` adds a folder of your own,",
                     "`--cfg job` prints the configuration instead of training.", ""]  # fmt: skip
        else:
            page += ["```text", help_of(verb), "```", ""]
    write(PAGES / "command_line.md", page)


# -- results --------------------------------------------------------------------------------------------------------


def write_results() -> None:
    """Write every key of result.json and metrics.csv."""
    write(PAGES / "results.md", ["# Results", ""])


# -- Python ---------------------------------------------------------------------------------------------------------


def write_api() -> None:
    """Write a page for each package, its members by autodoc."""
    folder = PAGES / "python"
    known = {name: text for name, text in API.items() if importlib.util.find_spec(f"sparsebench.{name}")}
    page = ["# Python", "", "Imports point down only: a package knows those above it in this table, and nothing below.", "",
            "| package | what lives there |", "|---|---|"]  # fmt: skip
    page += [f"| [`sparsebench.{name}`]({name}.md) | {text} |" for name, text in known.items()]
    write(folder / "index.md", [*page, "", "```{toctree}", ":hidden:", "", *known, "```"])
    for name, text in known.items():
        modules = [f"functional.{part}" for part in FUNCTIONAL] if name == "functional" else [name]
        page = [f"# sparsebench.{name}", "", f"{text}.", ""]
        for module in modules:
            face = importlib.import_module(f"sparsebench.{module}")
            shown = [":imported-members:"] if hasattr(face, "__all__") else []
            page += [f"## {module.rpartition('.')[2]}", ""] if len(modules) > 1 else []
            page += ["```{eval-rst}", f".. automodule:: sparsebench.{module}", "   :members:", *(f"   {s}" for s in shown),
                     "```", ""]  # fmt: skip
        write(folder / f"{name}.md", page)


def write(path: Path, lines: list[str]) -> None:
    """Write a page, where it differs: an unchanged page is not built again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(lines).rstrip() + "\n"
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def main() -> None:
    """Write all pages."""
    os.environ.update(COLUMNS="100", NO_COLOR="1")
    write_configuration()
    write_verbs()
    write_results()
    write_api()


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
