"""Show defaults in signatures as one would write them (`erk`, not `<function erk>`), and bars in docstrings as bars."""

import re
from collections.abc import Callable
from typing import Any

from sphinx.application import Sphinx


def tidy(app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None) -> Any:
    """Return the signature with plain names in the place of object descriptions."""
    del app, what, name, obj, options
    if signature is None:
        return None
    plain = re.sub(r"<(?:class|function) '?(?:[\w.]+\.)?(\w+)'?(?: at 0x\w+)?>", r"\1", signature)
    plain = re.sub(r"<[\w.]*?(\w+) object(?: at 0x\w+)?>", r"\1()", plain)
    return plain, returns


def keep_bars(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Let `|w|` in a docstring be an absolute value, which reStructuredText would take for a substitution."""
    del app, what, name, obj, options
    change_prose(lines, lambda text: text.replace("|", r"\|"))


def keep_stars(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Let `a*b` in a docstring be a product, which reStructuredText would take for emphasis."""
    del app, what, name, obj, options
    change_prose(lines, lambda text: re.sub(r"(?<!\*)\*(?!\*)", r"\\*", text))


def change_prose(lines: list[str], change: Callable[[str], str]) -> None:
    """Change the lines of a docstring, but neither what stands between double backticks nor literal blocks."""
    literal: int | None = None  # indentation of the line whose ``::`` has begun a literal block
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if literal is not None and line.strip() and indent <= literal:
            literal = None
        if literal is None:
            parts = line.split("``")
            lines[number] = "``".join(part if at % 2 else change(part) for at, part in enumerate(parts))
            literal = indent if line.rstrip().endswith("::") else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Listen to autodoc, before and after Google's style is read (at 500)."""
    app.connect("autodoc-process-signature", tidy)
    app.connect("autodoc-process-docstring", keep_stars, priority=400)
    app.connect("autodoc-process-docstring", keep_bars, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
