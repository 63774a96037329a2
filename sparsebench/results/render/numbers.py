"""Numbers as cells of a table: means with deviations, medians with quartiles."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from sparsebench.results.key import Key
from sparsebench.results.significance import values_of
from sparsebench.results.table import Mean, Row


def aligned(cells: Sequence[str]) -> list[str]:
    """Pad cells with ``±`` on the right to equal width, so that decimal points align."""
    width = max((len(cell.partition(" ± ")[2]) for cell in cells), default=0)
    if not width:
        return list(cells)
    return [c if c == "-" else c + " " * (width + 3 - len("".join(c.partition(" ± ")[1:]))) for c in cells]


def number(average: Mean | None, key: Key) -> str:
    """Format a mean with its deviation in the digits of its key."""
    factor, digits = (100 if key.percent else 1), key.digits
    if average is None or not math.isfinite(average.value):
        return "-"
    text = f"{factor * average.value:.{digits}f}"
    if average.std is None:
        return text
    spread = f"{factor * average.std:.{digits}f}"
    # a deviation that rounds to zero is shown only for accuracies
    return text if float(spread) == 0 and factor == 1 else f"{text} ± {spread}"


def quartiles(row: Row, key: Key) -> str:
    """Format a median with the first and third quartile, or the number of a single run."""
    values = [value for value in values_of(row, key.name).values() if math.isfinite(value)]
    if len(values) < 2:
        return number(row.means.get(key.name), key)
    factor = 100 if key.percent else 1
    low, middle, high = (
        f"{factor * value:.{key.digits}f}" for value in statistics.quantiles(values, method="inclusive")
    )
    return middle if low == high and factor == 1 else f"{middle} [{low}, {high}]"
