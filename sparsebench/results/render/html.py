"""A whole report on one HTML page that opens from disk without network access."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsebench.results.render.columns import LEGEND
from sparsebench.results.render.text import finite
from sparsebench.results.significance import MEANING

TEMPLATE = Path(__file__).with_name("page.html")


def page(picture: Mapping[str, Any], *, title: str, notes: Sequence[str], sources: Sequence[str], made: str) -> str:
    """Return the report as one HTML page.

    Text of a run is never treated as markup: the data are in a block of JSON in which no tag can begin, and the script
    inserts them as text.

    Args:
        picture: the result of ``charts.picture``.
        title: heading.
        notes: remarks on runs that are unfinished, damaged, or of different versions.
        sources: sources of the published numbers.
        made: version and time of the report.
    """
    data = {
        **picture,
        "title": title,
        "notes": list(notes),
        "sources": list(sources),
        "made": made,
        "legend": f"{LEGEND}; bold: {MEANING}",
    }
    text = json.dumps(finite(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)
    for letter, escape in (("<", "\\u003c"), (">", "\\u003e"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029")):
        text = text.replace(letter, escape)
    head, tail = TEMPLATE.read_text(encoding="utf-8").split("{{data}}")
    return head.replace("{{title}}", html.escape(title)) + text + tail


def _plain(value: Any) -> str:
    """Write values unknown to JSON, such as a date in a configuration, as text."""
    return str(value)
