"""Runs that fail: one line for people, the traceback in the folder, and the rest of a grid goes on."""

import subprocess
import sys

import pytest
from support import REPOSITORY, environment_of

from sparsebench.methods import Static
from sparsebench.runs.folder import RunFolder

QUIET = ["method=static", "monitor=light"]


def broken(*_):
    raise KeyError("a slip in somebody's code")


@pytest.mark.parametrize("when", ["start", "after_step"])
def test_an_unexpected_error_is_one_line_and_its_traceback_is_in_the_folder(cli, tiny, outputs, monkeypatch, when):
    monkeypatch.setattr(Static, when, broken)
    answer = cli("train", *tiny, *QUIET)
    assert answer.code == 1
    (line,) = answer.err.splitlines()
    (file,) = outputs.rglob("failed.txt")
    said = """KeyError: "a slip in somebody's code\""""
    assert line == f"sparsebench: error: {said}; its traceback is in {file.relative_to(outputs.parent)}"
    text = file.read_text(encoding="utf-8")
    assert text.splitlines()[0] == said
    assert "Traceback (most recent call last)" in text
    assert "in broken" in text
    folder = RunFolder(file.parent)
    assert (folder.state(), folder.failure()) == ("failed", said)
    status = cli("status").out
    assert said in status
    assert "Traceback" not in status + cli("report").out
    monkeypatch.undo()
    monkeypatch.chdir(outputs.parent)
    assert cli("train", *tiny, *QUIET).code == 0
    assert not file.exists()


def test_it_is_shown_on_request(cli, tiny, monkeypatch):
    monkeypatch.setattr(Static, "start", broken)
    monkeypatch.setenv("SPARSEBENCH_TRACEBACK", "1")
    with pytest.raises(KeyError):
        cli("train", *tiny, *QUIET)


@pytest.mark.parametrize("sweeper", ["grid", "basic"])
def test_a_grid_goes_on_and_names_the_file(cli, tiny, outputs, monkeypatch, sweeper):
    start = Static.start

    def sometimes(self, net, probe):
        return broken() if net.seed == 1 else start(self, net, probe)

    monkeypatch.setattr(Static, "start", sometimes)
    answer = cli("train", "-m", *tiny, *QUIET, "seed=0,1,2", f"hydra/sweeper={sweeper}")
    assert answer.code == 1
    assert len(list(outputs.rglob("DONE"))) == 2
    (file,) = outputs.rglob("failed.txt")
    said = (
        f'a run failed: KeyError: "a slip in somebody\'s code"; its traceback is in {file.relative_to(outputs.parent)}'
    )
    assert said in answer.err
    assert "Traceback" not in answer.err
    assert "in broken" in file.read_text(encoding="utf-8")


def test_what_a_user_can_mend_has_its_traceback_there_too(cli, tiny, outputs):
    answer = cli("train", *tiny, *QUIET, "optimizer.lr=1e30")
    assert answer.code == 2
    (line,) = answer.err.splitlines()
    assert line.startswith("sparsebench: error: the training loss is ")
    text = next(outputs.rglob("failed.txt")).read_text(encoding="utf-8")
    assert text.startswith("FloatingPointError: the training loss is ")
    assert "Traceback (most recent call last)" in text


@pytest.mark.ranks
def test_a_run_of_two_processes_says_one_line(tiny, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from sparsebench.methods import Static\n\n\nclass Broken(Static):\n"
        "    def after_step(self, net, clock, optimizer):\n        raise KeyError('a slip')\n"
    )
    arguments = ["train", *tiny, *QUIET, "method._target_=mine.Broken", "trainer.devices=2", "trainer.strategy=ddp"]
    done = subprocess.run(
        [sys.executable, "-m", "sparsebench", *arguments],
        cwd=tmp_path, env=environment_of(PYTHONPATH=f"{tmp_path}:{REPOSITORY}"), capture_output=True, text=True,
        timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    (file,) = (tmp_path / "outputs").rglob("failed.txt")
    said = [line for line in done.stderr.splitlines() if line.startswith("sparsebench: error: ")]
    assert said, done.stderr
    assert said == [f"sparsebench: error: KeyError: 'a slip'; its traceback is in {file.relative_to(tmp_path)}"]
    assert "in after_step" in file.read_text(encoding="utf-8")
