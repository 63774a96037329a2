"""Write docs/reference/result.md from the schema of results; --check only compares."""

from __future__ import annotations

import sys
from pathlib import Path

from sparsebench.results.key import PLACES, Key
from sparsebench.results.schema import FORMER, KEYS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "result.md"
HEAD = """\
# Results and metrics

Every key that sparsebench writes about a run. It is generated from `sparsebench/results/schema.py`
(`scripts/result_reference.py`), from which tables, charts and comparisons take their names, too. *Better* says which of
two values is better. Your own methods may log further numbers, which are drawn and compared under their plain names.
"""
BETTER = {"higher": "higher", "lower": "lower", "none": ""}


def page() -> str:
    """Return the text of the page."""
    parts = [HEAD]
    for place, about in PLACES.items():
        rows = [_row(key) for key in KEYS if place in key.place]
        table = "\n".join(["| key | meaning | unit | better | heading |", "|---|---|---|---|---|", *rows])
        name = f"`{place}`" if "." in place else place.capitalize()
        parts.append(f"\n## {name}\n\n{about}\n\n{table}\n")
    renamed = "\n".join(f"| `{old}` | `{new}` |" for old, new in FORMER.items())
    parts.append(
        "\n## Former names\n\nResults of version 0.1 are read under the current names.\n\n"
        f"| before | today |\n|---|---|\n{renamed}\n"
    )
    return "".join(parts)


def _row(key: Key) -> str:
    heading = key.heading.replace("\n", " ").replace("|", r"\|")
    return f"| `{key.name}` | {key.meaning} | {key.unit} | {BETTER[key.direction]} | {heading} |"


def main() -> None:
    """Write the page, or compare it."""
    if "--check" not in sys.argv:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(page(), encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page():
        sys.exit("docs/reference/result.md is out of date: run .venv/bin/python scripts/result_reference.py")


if __name__ == "__main__":
    main()
