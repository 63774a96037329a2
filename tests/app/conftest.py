"""Call the command line in this process: importing Lightning once instead of once per test."""

import sys
from pathlib import Path

import pytest
from support import TINY, Answer

from sparsebench.app.main import main


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """``cli("train", "method=rigl", ...)`` in an empty folder; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPARSEBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(sys, "argv", ["sparsebench"])

    def call(*arguments: str) -> Answer:
        code = 0
        capsys.readouterr()
        try:
            main(list(arguments))
        except SystemExit as stopped:
            code = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
        seen = capsys.readouterr()
        return Answer(code, seen.out, seen.err)

    return call


@pytest.fixture
def outputs(tmp_path) -> Path:
    """Where runs of this test lie."""
    return tmp_path / "outputs"


@pytest.fixture
def tiny() -> list[str]:
    return list(TINY)
