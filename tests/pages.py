"""Read the pages of the documentation as a stranger follows them: files to write, Python to run, commands to type."""

from __future__ import annotations

import ast
import io
import re
import shlex
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
BLOCK = re.compile(r"(?P<before>[^\n]*)\n{1,2}(?P<fence>```)(?P<language>python|yaml|bash)\n(?P<text>.*?)```", re.S)


@dataclass(frozen=True)
class Step:
    """What a page tells its reader to do: write a file (``path``), run Python, or type commands.

    Attributes:
        kind: ``file``, ``python`` or ``bash``.
        text: what to write, run or type.
        path: where a file is written.
        note: the HTML comment before the block: why it is not run here, or what it needs.
    """

    kind: str
    text: str
    path: str = ""
    note: str = ""

    def commands(self) -> list[list[str]]:
        """Return the commands of a bash block, comments removed, continued lines joined."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def steps(page: str | Path) -> Iterator[Step]:
    """Return the steps of a page, in order; a block behind a line with nothing but `` `path`: `` is a file."""
    for found in BLOCK.finditer((DOCS / page).read_text()):
        before, language = found["before"].strip(), found["language"]
        note = re.fullmatch(r"<!-- (.*) -->", before)
        if path := re.fullmatch(r"`([\w./-]+)`:", before):
            yield Step("file", found["text"], path=path[1])
        elif language in ("python", "bash"):
            yield Step(language, found["text"], note=note[1] if note else "")


def lines_of(step: Step) -> int:
    """Count the lines of a file that are neither blank, nor comment, nor docstring."""
    if not step.path.endswith(".py"):
        return sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in step.text.splitlines())
    said: set[int] = set()
    for node in ast.walk(ast.parse(step.text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            said |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    tokens = tokenize.generate_tokens(io.StringIO(step.text).readline)
    code = {n for t in tokens if t.type not in skipped for n in range(t.start[0], t.end[0] + 1)}
    return len(code - said)
