"""Write docs/results/leaderboard.md from the committed results; --check only compares."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsebench.results.leaderboard import collect, records

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
PAGE = RESULTS / "leaderboard.md"
HEAD = """\
# Leaderboard

Every committed result with a test accuracy, by data set and network. The page is generated (`scripts/leaderboard.py`);
a result that is not in a file below `docs/results` is not here. [Send in your own](submitting.md).

- Bands and ± are the 95 % interval of the mean over seeds (Student's t). A hollow point is a single run.
- Ranks hold within a data set, network and sparsity (in steps of half a point). A rank is one more than the number of
  methods that are better and can be told apart by their seeds, so equal ranks are ties. Single runs and dense training
  have no rank.
- Methods may have been trained for different lengths and under different recipes: epochs, FLOPs and the command stand
  in each row. Accuracies of different rows compare programs, not ideas alone.
"""
HEADS = ("rank", "method", "sparsity, %", "test accuracy, %", "n", "training FLOPs", "source")


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of the page."""
    data = json.dumps(list(rows), ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    parts = [
        HEAD,
        "```{raw} html",
        '<div id="leaderboard"><p>The filters need JavaScript; all numbers stand in the tables below.</p></div>',
        f'<script type="application/json" id="leaderboard-data">{data}</script>',
        '<script src="../_static/leaderboard.js"></script>',
        "```",
        "",
        "## All numbers",
    ]
    for place in dict.fromkeys((row["dataset"], row["model"]) for row in rows):
        parts += [
            "",
            f"### {place[0]}, {place[1]}",
            "",
            *_table([r for r in rows if (r["dataset"], r["model"]) == place]),
        ]
    sources = sorted({row["source"] for row in rows})
    parts += ["", "## Sources", "", *(f"- {{download}}`{source}`" for source in sources)]
    return "\n".join(parts) + "\n"


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    ordered = sorted(rows, key=lambda row: (row["sparsity"] or 0.0, row["rank"] or 99, -row["accuracy"]))
    lines = [
        "| rank | method | sparsity, % | test accuracy, % | n | training FLOPs | source |",
        "|--:|---|--:|--:|--:|--:|---|",
    ]
    for row in ordered:
        half = "" if row["half"] is None else f" ± {row['half']:.2f}"
        accuracy = f"{row['accuracy']:.2f}{half}"
        cells = (
            "–" if row["rank"] is None else str(row["rank"]),
            row["method"],
            "–" if row["sparsity"] is None else f"{100 * row['sparsity']:.1f}",
            f"**{accuracy}**" if row["rank"] == 1 else accuracy,
            str(row["n"]),
            "–" if row["flops"] is None else f"{row['flops']:.3f}",
            f"`{row['source']}`",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Write the page, or compare it."""
    text = page(records(collect(RESULTS)))
    if "--check" not in sys.argv:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        sys.exit("docs/results/leaderboard.md is out of date: run .venv/bin/python scripts/leaderboard.py")


if __name__ == "__main__":
    main()
