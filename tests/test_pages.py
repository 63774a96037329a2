"""The pages of the documentation work: every file that they show is written, every command is run.

Training is cut short by overrides at the end of the command; what a page says about lines of code is counted.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
from pages import DOCS, Step, lines_of, steps
from support import REPOSITORY, SHARED_DATA

from sparsebench.app.config.check import check_config, check_overrides
from sparsebench.app.config.compose import compose_config
from sparsebench.app.main import main

SHORT = [
    "trainer.max_epochs=2",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
    "dataset.limit=128",
    "dataset.batch_size=16",
    "progress=none",
    "every=3",
]
HOWTO = ("method", "data_set", "model", "recipe", "launcher", "experiment")
PROGRAMS = ("sparsebench",)


@pytest.fixture
def reader(tmp_path, monkeypatch, capsys):
    """A reader in an empty folder; ``reader(step)`` does what a step of a page says and returns what was printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", str(REPOSITORY)))
    monkeypatch.delenv("SPARSEBENCH_DATA", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["sparsebench"])
    before, names = set(sys.modules), {"__name__": "page"}

    def follow(step: Step, *, apart: bool = False) -> str:
        if step.kind == "file":
            path = tmp_path / step.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(step.text)
        elif step.kind == "python":
            exec(step.text, names)
        else:
            for program, *arguments in step.commands():
                assert program in PROGRAMS, f"a page may ask for {PROGRAMS}; mark other blocks as shown, not run"
                if apart:
                    subprocess.run([sys.executable, "-m", "sparsebench", *shortened(arguments)], check=True)
                else:
                    main(shortened(arguments))
        return capsys.readouterr().out

    yield follow
    for name in set(sys.modules) - before:  # modules of one page must not serve another
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def shortened(arguments: list[str]) -> list[str]:
    """Return the arguments of a command that trains for seconds, with everything else as the page has it."""
    if arguments[0] != "train":
        return arguments
    given = {argument.partition("=")[0] for argument in arguments}
    return [
        *arguments,
        *(part for part in SHORT if part.partition("=")[0] not in given or part.startswith(("trainer", "dataset"))),
    ]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in ("launcher", "method"))) for n in HOWTO]
)
def test_a_stranger_follows_the_page(name, reader, tmp_path):
    done = list(steps(f"howto/{name}.md"))
    assert any(step.kind == "file" for step in done)
    assert any(step.kind == "bash" for step in done)
    for step in done:
        if not step.note.startswith("shown, not run"):
            reader(step, apart=name == "launcher")  # Hydra looks for plugins once in a process
    assert list(tmp_path.glob("outputs/**/result.json")), "no command of the page has trained anything"


@pytest.mark.parametrize("name", [*HOWTO, "back_end"])
def test_the_lines_are_as_many_as_the_index_says(name):
    files = first_example(name)
    row = re.search(rf"\({name}\.md\) \| (\d+) \| (\d+) \|", (DOCS / "howto" / "index.md").read_text())
    assert row, f"howto/index.md has no row for {name}"
    assert (int(row[1]), int(row[2])) == (len(files), sum(map(lines_of, files)))


def first_example(name: str) -> list[Step]:
    """Return the files before the first block of commands that follows one: what it takes at least."""
    found: list[Step] = []
    for step in steps(f"howto/{name}.md"):
        if step.kind == "bash" and found:
            break
        if step.kind == "file":
            found.append(step)
    return found


def test_getting_started(reader):
    for step in steps("getting_started.md"):
        if not step.note:
            reader(step)


@pytest.mark.slow
def test_getting_started_on_cifar(reader, tmp_path, monkeypatch):
    if not (SHARED_DATA / "cifar-10-batches-py").is_dir():
        pytest.skip("CIFAR-10 is not there: set SPARSEBENCH_DATA to the folder that holds cifar-10-batches-py")
    data = SHARED_DATA
    if not (SHARED_DATA / "cifar-10-batches-py" / "data_batch_1").exists():  # as it is packed beside the repository
        data = tmp_path / "data"
        subprocess.run([sys.executable, SHARED_DATA / "unpack.py", data, "cifar10"], check=True, capture_output=True)
    monkeypatch.setenv("SPARSEBENCH_DATA", str(data))
    (step,) = [step for step in steps("getting_started.md") if step.note == "needs CIFAR-10"]
    said = reader(step)
    assert "rigl" in said
    assert (tmp_path / "outputs" / "cifar" / "report.html").exists()


@pytest.mark.parametrize(
    "page", ["concepts.md", "howto/back_end.md", pytest.param("all_of_sparsebench.md", marks=pytest.mark.slow)]
)
def test_the_examples_of_the_tour(page, reader):
    for step in steps(page):
        if not step.note:
            reader(step)


def shown() -> Iterator[tuple[str, list[str]]]:
    """Yield the training commands of README and of every page whose commands are not run as they stand."""
    run = {"getting_started.md", "all_of_sparsebench.md", "howto/back_end.md", *(f"howto/{name}.md" for name in HOWTO)}
    pages = [path for path in DOCS.rglob("*.md") if "_build" not in path.parts and "guides" not in path.parts]
    for path in [REPOSITORY / "README.md", *sorted(pages)]:
        if path.is_relative_to(DOCS) and path.relative_to(DOCS).as_posix() in run:
            continue
        for step in steps(path):
            for words in step.commands() if step.kind == "bash" else ():
                if words[:2] == ["sparsebench", "train"]:
                    yield f"{path.stem}: {' '.join(words[2:])[:50]}", words[2:]


@pytest.mark.parametrize("arguments", [pytest.param(given, id=name) for name, given in shown()])
def test_commands_that_are_only_shown_compose(arguments):
    check_overrides(arguments)
    values = [argument for argument in arguments if argument != "-m" and not argument.startswith("hydra")]
    check_config(compose_config([re.sub(r"(?<=[^[{(]),.*", "", value) for value in values]))


def test_what_is_not_run_says_why():
    for path in DOCS.rglob("*.md"):
        if "_build" in path.parts:
            continue
        for step in steps(path):
            if step.note:
                assert re.fullmatch(r"shown, not run: .{5,}|needs CIFAR-10", step.note), (path, step.note)


def test_no_page_names_a_place_of_one_machine():
    for path in [*DOCS.rglob("*.md"), REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md"]:
        if "_build" not in path.parts:
            assert not re.search(r"(?<![\w.~])/(work|tmp|root|opt)/", path.read_text()), path


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_generated_pages_are_not_committed():
    listed = subprocess.run(["git", "ls-files", "docs"], cwd=REPOSITORY, capture_output=True, text=True).stdout
    assert "docs/_build" not in listed
    assert "docs/reference/configuration" not in listed
