"""A method in a folder of its own; file, YAML and commands are those of docs/howto/method.md."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support import REPOSITORY

from sparsebench.app.config.tree import make_importable

GUIDE = (REPOSITORY / "docs" / "howto" / "method.md").read_text()


def block(language: str) -> str:
    return re.search(rf"```{language}\n(.*?)```", GUIDE, re.S)[1]


@pytest.fixture
def user(tmp_path):
    """A user in an empty folder who has written what the guide says; ``user("list", ...)`` returns what is printed."""
    for language, path in (("python", "mine/small_gradient.py"), ("yaml", "mine/method/small_gradient.yaml")):
        assert f"`{path}`" in GUIDE
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(block(language))
    program = Path(sys.executable).with_name("sparsebench")
    if not program.exists():
        pytest.skip("the command sparsebench is not installed beside this Python")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def call(*arguments: str) -> str:
        done = subprocess.run(
            [program, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


def test_the_commands_of_the_guide(user, tiny, tmp_path):
    """Found, trained in worker processes beside a method of ours, skipped the second time, reported."""
    commands = [shlex.split(line)[1:] for line in block("bash").splitlines()]
    assert [command[0] for command in commands] == ["list", "plan", "train", "report"]
    find, _, train, report = commands  # planning would import everything once more, by the same door
    assert re.search(r"^small_gradient +RigL reversed: grow where the gradient is smallest$", user(*find), re.M)
    said = user(*train, *tiny)
    assert all(f"[method=small_gradient seed={seed}] small_gradient on mlp" in said for seed in (0, 1))
    masks = [json.loads(path.read_text())["mask_digest"] for path in (tmp_path / "outputs").rglob("result.json")]
    assert len(masks) == len(set(masks)) == 4
    assert "4 finished, 0 to do" in user(*train, *tiny)
    assert re.search(r"^small_gradient +0\.5 +2 ", user(*report), re.M)


def test_a_folder_is_importable_here_and_in_processes_that_follow(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"elsewhere{os.pathsep}{tmp_path}")
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "of_a_user_of_ours.py").write_text("print('found')")
    for _ in range(2):
        make_importable([tmp_path, tmp_path / "nowhere"])
    assert os.environ["PYTHONPATH"] == f"{tmp_path}{os.pathsep}elsewhere"
    assert sys.path[0] == str(tmp_path)
    assert sys.path.count(str(tmp_path)) == 1
    call = [sys.executable, "-c", "import of_a_user_of_ours"]
    assert subprocess.run(call, cwd="/", capture_output=True, text=True, check=True).stdout == "found\n"
