"""Write the tables of methods, by family, into README.md and the documentation; --check only compares.

Every method is one YAML in conf/method/ and one card in docs/methods/ (docs/recipes/ for the one that recipes use);
this script fails if a card is missing, lacks a section, or describes its method differently from the YAML.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = ("## Rule", "## Hyper-parameters", "## Deviations", "## Cost", "## Measured here")
BUDGET = {"always": "exact at every step", "end": "exact at the end", "never": "follows from the method"}
FAMILIES = {
    "References": "the reference for every comparison",
    "Chosen before training": "masks are drawn or scored once and kept",
    "Dynamic sparse training": "masks move while the number of active weights stays",
    "Dense to sparse": "training begins dense and ends sparse",
    "Zeros in the forward pass": "dense weights are stored, the network computes with fewer of them",
    "Mirror descent": "sparsity follows from a regulariser acting on a dual variable",
}
MEMBERS = {  # class or module -> its family; a subclass belongs to the family of the nearest base that is listed
    "Dense": "References",
    "Given": "References",
    "static": "Chosen before training",
    "at_init": "Chosen before training",
    "dynamic": "Dynamic sparse training",
    "granet": "Dense to sparse",
    "gradual": "Dense to sparse",
    "ac_dc": "Dense to sparse",
    "cram": "Dense to sparse",
    "reparameterised": "Zeros in the forward pass",
    "computed_weights": "Zeros in the forward pass",
    "top_kast": "Zeros in the forward pass",
    "sampled_masks": "Zeros in the forward pass",
    "bregman": "Mirror descent",
}


def target(path: Path) -> str:
    """Return the class of a method's YAML, following its defaults."""
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "_target_" in values:
        return values["_target_"]
    parents = [entry for entry in values.get("defaults", []) if isinstance(entry, str) and entry != "_self_"]
    return target(path.with_name(f"{parents[0]}.yaml"))


def class_of(path: Path) -> type:
    """Import the class in a method's YAML."""
    module, _, name = target(path).rpartition(".")
    return getattr(importlib.import_module(module), name)


def family(method: type) -> str:
    """Return the family of a method: its own, or its nearest base's."""
    for base in method.__mro__:
        for key in (base.__name__, base.__module__.rpartition(".")[2]):
            if key in MEMBERS:
                return MEMBERS[key]
    sys.exit(f"{method.__name__} belongs to no family: add its module to MEMBERS in scripts/method_table.py")


def card_of(name: str) -> Path:
    """Return the path of a method's card."""
    found = [ROOT / "docs" / folder / f"{name}.md" for folder in ("methods", "recipes")]
    return found[1] if found[1].exists() else found[0]


def row(path: Path, start: Path) -> str:
    """Return the table row of a method, with its link relative to a folder, and check its card."""
    name, card = path.stem, card_of(path.stem)
    sentence = next(
        line[2:] for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# ") and "@" not in line
    )
    if not card.exists():
        sys.exit(f"{card.relative_to(ROOT)} is missing: every method has a card")
    text = card.read_text(encoding="utf-8")
    for section in SECTIONS:
        if section not in text:
            sys.exit(f"{card.relative_to(ROOT)} lacks the section {section!r}")
    if sentence not in text:
        sys.exit(f"{card.relative_to(ROOT)} does not say what conf/method/{name}.yaml says: {sentence!r}")
    method = class_of(path)
    budget = BUDGET[method.budget_holds]
    if "budget" in method.exceptions:  # with its reason
        budget = budget.replace("exact", "at most")
    link = Path(os.path.relpath(card, start)).as_posix()
    return f"| [`{name}`]({link}) | {sentence} | {budget} |"


def families() -> dict[str, list[Path]]:
    """Return the YAML files of each family in order."""
    found: dict[str, list[Path]] = {title: [] for title in FAMILIES}
    for path in sorted((ROOT / "conf" / "method").glob("*.yaml")):
        found[family(class_of(path))].append(path)
    return found


def table(paths: list[Path], start: Path) -> str:
    """Return the table of the given methods."""
    return "\n".join(["| method | description | sparsity |", "|---|---|---|", *(row(path, start) for path in paths)])


def folded() -> str:
    """Return the tables for the README: one fold per family."""
    parts = []
    for title, paths in families().items():
        summary = f"<summary><b>{title}</b> ({len(paths)}): {FAMILIES[title]}</summary>"
        parts.append(f"<details>\n{summary}\n\n{table(paths, ROOT)}\n\n</details>")
    return "\n".join(parts)


def sections() -> str:
    """Return the tables for the documentation: a section per family, and the navigation."""
    start = ROOT / "docs" / "methods"
    parts = [
        f"## {title}\n\n{FAMILIES[title][0].upper()}{FAMILIES[title][1:]}.\n\n{table(paths, start)}\n"
        for title, paths in families().items()
    ]
    cards = [path.stem for paths in families().values() for path in paths if card_of(path.stem).parent == start]
    return "\n".join([*parts, "```{toctree}\n:hidden:\n", *cards, "```"])


def renew(document: Path, content: str) -> None:
    """Write, or only compare, the text between the markers of a document."""
    text = document.read_text(encoding="utf-8")
    pattern = re.compile(r"(<!-- methods -->\n).*?(<!-- /methods -->)", re.S)
    new = pattern.sub(lambda found: f"{found[1]}{content}\n{found[2]}", text)
    if "--check" in sys.argv and new != text:
        where = document.relative_to(ROOT)
        sys.exit(f"the method table of {where} is out of date: run .venv/bin/python scripts/method_table.py")
    if new != text:
        document.write_text(new, encoding="utf-8")


def main() -> None:
    """Write or compare the tables between their markers."""
    renew(ROOT / "README.md", folded())
    renew(ROOT / "docs" / "methods" / "index.md", sections())


if __name__ == "__main__":
    main()
