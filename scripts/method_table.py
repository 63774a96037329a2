"""Write the method table of the README from the configuration tree and the classes; --check only compares.

Every method is one YAML in conf/method/ and one card in docs/methods/; this script fails when a card is missing,
lacks a section, or says another sentence about its method than the YAML.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = ("## Rule", "## Hyper-parameters", "## Deviations", "## Cost", "## Measured here")
BUDGET = {"always": "exact at every step", "end": "exact at the end", "never": "follows from the method"}


def target(path: Path) -> str:
    """Return the class of a method's YAML, following its defaults."""
    values = yaml.safe_load(path.read_text())
    if "_target_" in values:
        return values["_target_"]
    parents = [entry for entry in values.get("defaults", []) if isinstance(entry, str) and entry != "_self_"]
    return target(path.with_name(f"{parents[0]}.yaml"))


def row(path: Path) -> str:
    """Return the table row of a method, checking its card."""
    name = path.stem
    sentence = next(line[2:] for line in path.read_text().splitlines() if line.startswith("# ") and "@" not in line)
    module, _, cls = target(path).rpartition(".")
    method = getattr(importlib.import_module(module), cls)
    card = ROOT / "docs" / "methods" / f"{name}.md"
    if not card.exists():
        sys.exit(f"{card.relative_to(ROOT)} is missing: every method has a card")
    text = card.read_text()
    for section in SECTIONS:
        if section not in text:
            sys.exit(f"{card.relative_to(ROOT)} lacks the section {section!r}")
    if sentence not in text:
        sys.exit(f"{card.relative_to(ROOT)} does not say what conf/method/{name}.yaml says: {sentence!r}")
    budget = BUDGET[method.budget_holds]
    if "budget" in method.exceptions:  # with its reason there
        budget = budget.replace("exact", "at most")
    return f"| [`{name}`](docs/methods/{name}.md) | {sentence} | {budget} |"


def main() -> None:
    """Write or compare the table between its markers."""
    rows = [row(path) for path in sorted((ROOT / "conf" / "method").glob("*.yaml"))]
    table = "\n".join(["| method | what it does | sparsity |", "|---|---|---|", *rows])
    readme = ROOT / "README.md"
    text = readme.read_text()
    pattern = re.compile(r"(<!-- methods -->\n).*?(<!-- /methods -->)", re.S)
    new = pattern.sub(lambda found: f"{found[1]}{table}\n{found[2]}", text)
    if "--check" in sys.argv and new != text:
        sys.exit("the method table of README.md is out of date: run .venv/bin/python scripts/method_table.py")
    readme.write_text(new)


if __name__ == "__main__":
    main()
