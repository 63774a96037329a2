"""A console for all tables: colours and line wrapping on a terminal only."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.text import Text

WIDE = 400
"""Columns of a table that goes to a file or another program."""


def console() -> Console:
    """Return a console for standard output."""
    shown = sys.stdout.isatty()
    return Console(no_color=None if shown else True, width=None if shown else WIDE, highlight=False, soft_wrap=False)


def heading(text: str) -> Text:
    """Return a title as styled text."""
    return Text(text, style="bold")
