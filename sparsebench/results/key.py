"""Definition of a result key: name, meaning, unit, heading, direction, place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sparsebench.runs import files
from sparsebench.runs.files import METRICS, RESULT

Direction = Literal["higher", "lower", "none"]
CYCLES, PLAN, REPORT = "cycles", "plan", "report"

PLACES = {
    RESULT: "Written into the folder of a run when it ends.",
    METRICS: "One row per optimizer step that logged something; a recipe of several fits has one file per stage.",
    CYCLES: f"One entry per measured network of a recipe, under `cycles` in `{RESULT}` and in `{files.CYCLES}`.",
    PLAN: "Printed by `sparsebench plan --json` before a run.",
    REPORT: "Columns of `sparsebench report --format csv|json|parquet`, besides the means `KEY` and their sample "
    "standard deviations `KEY_std` of the numbers above that a table shows.",
}  # fmt: skip
"""Places of keys, with a description."""


@dataclass(frozen=True)
class Key:
    """One result key: its name, its meaning, and its display.

    Attributes:
        name: name in files; ``PREFIX/*`` stands for one key per parameter.
        meaning: one sentence without a full stop.
        unit: unit of the number, or kind of value (text, list, mapping).
        heading: heading of a table column, with an optional line break for narrow columns.
        direction: which of two values is better: ``higher``, ``lower``, or ``none``.
        place: places of the key, by names from ``PLACES``.
        title: the name in running text, on axes and in comparisons; the heading by default.
        shown: the views that show it by default: ``table``, ``compare``, ``curve``, ``progress``.
        panel: ``section/title`` of the W&B panel that draws its history; empty for none.
        digits: digits after the decimal point, in tables and progress lines.
        percent: True to show the number as a percentage.
    """

    name: str
    meaning: str
    unit: str
    heading: str
    direction: Direction
    place: tuple[str, ...]
    title: str = ""
    shown: tuple[str, ...] = ()
    panel: str = ""
    digits: int = 4
    percent: bool = False

    @property
    def name_for_people(self) -> str:
        """Title, or heading if there is no title, in one line."""
        return self.title or self.heading.replace("\n", " ")

    def text(self, value: float) -> str:
        """Return a number as readable text, with the key's digits and a percent sign for percentages."""
        return f"{100 * value:.{self.digits}f} %" if self.percent else f"{value:.{self.digits}f}"

    @property
    def axis(self) -> str:
        """Title and unit for the axis of a chart."""
        return f"{self.name_for_people} (%)" if self.percent else self.name_for_people


def key(
    name: str, unit: str, heading: str, direction: Direction, place: tuple[str, ...],
    meaning: str, /, title: str = "", **more: Any,
) -> Key:  # fmt: skip
    """Return a key whose views are given as one text."""
    shown = tuple(more.pop("shown", "").split())
    return Key(name, meaning, unit, heading, direction, place, title=title, shown=shown, **more)
