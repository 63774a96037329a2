"""Docstrings read well alone: the first line of each is a sentence that makes sense in an editor's tooltip."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Rooms whose English has been revised; a room joins this list when its first lines pass.
ROOMS = (
    "sparsebench/functional",
    "sparsebench/patterns",
    "sparsebench/sparse",
    "sparsebench/optim",
    "sparsebench/cost",
    "sparsebench/analysis",
    "sparsebench/execution",
    "sparsebench/data",
    "sparsebench/models",
    "sparsebench/results",
    "sparsebench/recipes",
    "sparsebench/fits",
    "sparsebench/engine",
    "sparsebench/methods",
    "sparsebench/app",
    "sparsebench/runs",
    "hydra_plugins",
    "scripts",
)

# Crude signs of sentences that need the file around them, or that no native speaker would write.
CRUDE = re.compile(
    r"\b(?:what|whoever|whatever|whichever|that of|those of|of (?:its|their|his|one's) own|settles?|speaks?|meets?"
    r"|looks?|some|(?<!there )is no|has none|have none|nobody(?:'s)?|tells? (?:whether|that|how|which)|let|anew|afresh"
    r"|goes on|go on|the very|so many|put down|come and go|came to grief|as it is|as they are)\b",
    re.IGNORECASE,
)

LEAST_WORDS = 3


def first_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield place and first line of every docstring of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if (text := ast.get_docstring(node)) is not None:
            line = getattr(node, "lineno", 1)
            yield f"{path.relative_to(ROOT)}:{line} {getattr(node, 'name', 'module')}", text.splitlines()[0]


def fault(line: str) -> str | None:
    """Return the fault of a first line, or None for a sound one."""
    if found := CRUDE.search(line):
        return f"crude: {found.group()!r}"
    if not (line[0].isupper() or line[0] in "`0123456789"):
        return "starts without a capital"
    if not line.endswith("."):
        return "is not one whole sentence that ends with a period on the first line"
    if len(line.split()) < LEAST_WORDS:
        return f"has fewer than {LEAST_WORDS} words"
    return None


@pytest.mark.parametrize("room", ROOMS)
def test_first_lines_of_docstrings(room: str) -> None:
    """Every first line of a revised room is a plain sentence."""
    path = ROOT / room
    files = [path] if path.is_file() else sorted(path.rglob("*.py"))
    assert files, f"{room} holds no module"
    lines = [(place, line) for file in files for place, line in first_lines(file)]
    faults = [f"{place}: {reason}: {line}" for place, line in lines if (reason := fault(line))]
    assert not faults, "\n".join(["first docstring lines to rewrite:", *faults])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Return what a method is after at this moment.", "crude: 'what'"),
        ("Keep what is no whole line yet.", "crude: 'what'"),
        ("Return the dual, and those of the coarse phase.", "crude: 'those of'"),
        ("Tell whether a mask obeys the pattern.", "crude: 'Tell whether'"),
        ("one word is lowercase.", "starts without a capital"),
        ("Return the number of weights", "is not one whole sentence that ends with a period on the first line"),
        ("Return x.", "has fewer than 3 words"),
        ("Return the number of weights of a unit.", None),
    ],
)
def test_fault_of_a_first_line(line: str, reason: str | None) -> None:
    """The check finds each kind of fault, and leaves a plain sentence alone."""
    assert fault(line) == reason
