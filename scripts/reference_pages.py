"""Write the reference pages of the documentation from code: configuration, command line, Python.

Called by `scripts/docs`; the pages are written to docs/reference/ and not committed, except for the page of results
(see `scripts/result_reference.py`).
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import reference_configuration
from method_table import FAMILIES, family

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "reference"
Page = tuple[Path, list[str]]

PACKAGES = {
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
PARTS = {
    "functional": ("distribution", "select", "score", "schedule", "prox", "estimate"),
    "cost": ("flops", "passes", "ledger"),
}
COMMAND_LINE = """\
# Command line

`sparsebench VERB --help` prints the same texts.

| verb | description |
|---|---|"""
TRAIN = """\
Arguments are overrides of the [configuration](configuration/index.md). `-m` (`--multirun`) makes a grid of values
separated by commas, `--config-dir FOLDER` adds your own folder, `--cfg job` prints the configuration instead of
training.
"""
PYTHON = """\
# Python

Imports point down only: a package imports only packages above it in this table.

| package | contents |
|---|---|"""


def command_line() -> Iterator[Page]:
    """Yield the page of all verbs, each with its help text."""
    from sparsebench.app.main import VERBS

    page = [COMMAND_LINE, *(f"| [`{verb}`](#{verb}) | {text} |" for verb, text in VERBS.items()), ""]
    for verb, text in VERBS.items():
        said = [TRAIN] if verb == "train" else ["```text", help_of(verb), "```", ""]
        page += [f"## {verb}", "", f"{text[0].upper()}{text[1:].rstrip('.')}.", "", *said]
    yield PAGES / "command_line.md", page


def help_of(verb: str) -> str:
    """Return the output of `sparsebench VERB --help`."""
    from sparsebench.app.main import main

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main([verb, "--help"])
    return said.getvalue().rstrip()


def python() -> Iterator[Page]:
    """Yield a page for each public package; Sphinx fills in the docstrings."""
    folder = PAGES / "python"
    home = [PYTHON, *(f"| [`sparsebench.{name}`]({name}.md) | {text} |" for name, text in PACKAGES.items()), ""]
    yield folder / "index.md", [*home, "```{toctree}", ":hidden:", "", *PACKAGES, "```"]
    for name, text in PACKAGES.items():
        page = [f"# sparsebench.{name}", "", f"{text}.", ""]
        if name == "methods":
            page += by_family()
        elif name in PARTS:
            page += [line for part in PARTS[name] for line in (f"## {part}", "", *automodule(f"{name}.{part}"))]
        else:
            page += automodule(name)
        yield folder / f"{name}.md", page


def automodule(name: str) -> list[str]:
    """Return the directive that documents a module, including re-exports if the module lists its names."""
    imported = ["   :imported-members:"] if hasattr(importlib.import_module(f"sparsebench.{name}"), "__all__") else []
    return ["```{eval-rst}", f".. automodule:: sparsebench.{name}", "   :members:", *imported, "```", ""]


def by_family() -> list[str]:
    """Return the sections of the page of methods: first the interface, then a section per family."""
    methods = importlib.import_module("sparsebench.methods")
    found: dict[str, list[str]] = {"Interface": [], **{title: [] for title in FAMILIES}}
    for name in methods.__all__:
        thing = getattr(methods, name)
        own = inspect.isclass(thing) and issubclass(thing, methods.Method) and name not in ("Method", "Masked")
        found[family(thing) if own else "Interface"].append(name)
    page: list[str] = []
    for title, names in found.items():
        page += [f"## {title}", "", "```{eval-rst}"]
        for name in sorted(names, key=str.lower):
            kind = "autoclass" if inspect.isclass(getattr(methods, name)) else "autofunction"
            page += [f".. {kind}:: sparsebench.methods.{name}"]
            page += ["   :show-inheritance:"] if title != "Interface" else []
        page += ["```", ""]
    return page


def main() -> None:
    """Write all pages, leaving unchanged ones untouched."""
    os.environ.update(COLUMNS="100", NO_COLOR="1")
    for write in (reference_configuration.pages, command_line, python):
        for path, lines in write():
            path.parent.mkdir(parents=True, exist_ok=True)
            text = "\n".join(lines).rstrip() + "\n"
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
