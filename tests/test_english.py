"""Plain English: first docstring lines that read well alone, and prose without the turns that made it hard to read.

First lines make sense in an editor's tooltip. Bodies of docstrings, comments, messages and YAML comments are held to a
list of turns that were rewritten throughout and must not come back.
"""

import ast
import io
import re
import tokenize
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

# Turns that read like a translation, in any prose: each with what to write instead.
TURNS = {
    r"(?:who|what|which)ever": "name the thing, or use any",
    r"what (?:is|was|has|had|they|it|one|became|comes|follows|stands)": "use a noun: the value, the state, the rest",
    r"that of|of (?:its|their|his|her|one's|your|our) own": "repeat the noun; its own ..., a separate ...",
    r"(?<!there )(?:is|are|was|were) no (?!longer|more|less)": "is not a ...",
    r"nobody|somebody|anybody": "name the process or the user",
    r"anew|afresh|lest|namely|thereby|thereof|wherein|hitherto": "again; so that ... not; or leave it out",
    r"(?:go|goes|went|going) on(?! the)": "continue",
    r"ask(?:s|ed|ing)? for": "request, requested",
    r"in the place of": "in place of, instead of",
    r"(?:is|are|was|were) (?:not )?there(?=[.,;:)]|$)": "exists, is missing",
    r"at work|come and go|came to grief|so many|by then|at last|wholly|altogether": "use the literal verb",
    r"tells? (?:whether|which|how|what)": "state, return",
    r"(?:as it (?:is|stands|lies)|as they are)(?! not)": "unchanged",
    r"the one before|the ones before|of before": "the previous one",
    r"or else|; else|, else": "otherwise",
    r"the present (?:weights|masks?|mode|pace|cycle)": "the current ...",
    r"lets? go|put aside|put back|put down|puts? out": "release, restore, store",
}
TURN = {
    re.compile(rf"\b(?:{turn})\b" if turn[-1] not in ")$" else rf"\b(?:{turn})", re.I): instead
    for turn, instead in TURNS.items()
}

# In the arguments of a docstring: a description that begins with a preposition has lost its noun.
NOUNLESS = re.compile(r"^ +\*{0,2}\w+(?: \([^)]*\))?: (?:of|their|that) ", re.MULTILINE)

# Under revision elsewhere; remove once they pass.
UNREVISED = {"sparsebench/app/cli/reproduce.py", "sparsebench/results/reproduction.py"}


def first_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield place and first line of every docstring of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if (text := ast.get_docstring(node)) is not None:
            line = getattr(node, "lineno", 1)
            yield f"{path.relative_to(ROOT)}:{line} {getattr(node, 'name', 'module')}", text.splitlines()[0]


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of all prose in a Python file: docstrings, comments, and strings of three words or more."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            words = "".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            words = node.value
        else:
            continue
        if len(words.split()) >= LEAST_WORDS:
            yield node.lineno, words
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def comments(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of each comment of a YAML file."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if found := re.search(r"(?:^|\s)#\s(.*)", line):
            yield number, found[1]


def paragraphs(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of each line of a Markdown page outside of code."""
    code = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.lstrip().startswith("```"):
            code = not code
        elif not code:
            yield number, line


def turns(text: str) -> Iterator[str]:
    """Yield each turn of a text that must be rewritten, with advice."""
    plain = re.sub(r"``[^`]*``|`[^`]*`|(?<!\w)'[^']*'(?!\w)", "", text)
    for turn, instead in TURN.items():
        for found in turn.finditer(plain):
            yield f"{found.group()!r} ({instead})"
    for found in NOUNLESS.finditer(text):
        yield f"{found.group().strip()!r} (name the thing first)"


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


@pytest.mark.parametrize("room", [*ROOMS, "conf"])
def test_prose_of_a_room(room: str) -> None:
    """No docstring, comment or message of a room has one of the turns."""
    files = sorted((ROOT / room).rglob("*.yaml" if room == "conf" else "*.py"))
    assert files, f"{room} holds no file"
    faults: list[str] = []
    for file in files:
        place = str(file.relative_to(ROOT))
        if place not in UNREVISED:
            texts = comments(file) if room == "conf" else prose(file)
            faults += [f"{place}:{number}: {turn}" for number, text in texts for turn in turns(text)]
    assert not faults, "\n".join(["prose to rewrite:", *faults])


def test_prose_of_the_documentation() -> None:
    """No page of the documentation has one of the turns; the changelog, a record, is left alone."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    pages = [page for page in pages if "_build" not in page.parts and page.name != "changelog.md"]
    assert len(pages) > 80
    faults = [
        f"{page.relative_to(ROOT)}:{number}: {turn}"
        for page in pages
        for number, line in paragraphs(page)
        for turn in turns(line)
    ]
    assert not faults, "\n".join(["prose to rewrite:", *faults])


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Whoever locks, and that of the other, with a clock of its own.", 3),
        ("The first draws anew what is left; nobody tells whether it goes on.", 5),
        ("name is no number, and the file is not there: ask for another", 3),
        ("The first, or else the one before, in the place of the present weights.", 4),
        ("Args:\n        shape: of the weight.\n        rows: their number.", 2),
        ("There is no lock, the mask is no longer there; it goes on the GPU.", 0),
        ("Return the mask of a layer, grown from the kept weights to its size.", 0),
        ("``what is`` and 'anew' are quoted", 0),
    ],
)
def test_turns_are_found(text: str, count: int) -> None:
    """The check finds each turn once, and leaves plain sentences and quotations alone."""
    assert len(list(turns(text))) == count


def test_prose_has_every_kind(tmp_path: Path) -> None:
    """Docstrings, comments and messages are read, names and code are not."""
    path = tmp_path / "example.py"
    path.write_text(
        'def anew(x):  # a comment\n    """Return a thing."""\n    raise ValueError(f"{x} is not one")\n',
        encoding="utf-8",
    )
    assert sorted(text for _, text in prose(path)) == ["# a comment", "Return a thing.", "{} is not one"]


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
