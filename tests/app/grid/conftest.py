"""The command line in this process or in one of its own, and what the grid comes to one cell after another."""

import sys
from pathlib import Path

import pytest

from sparsebench.app.main import main

sys.path.insert(0, str(Path(__file__).parent))

from grids import GRID, Answer, Bench


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.end()


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """The command line in this process, which has imported Lightning already."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPARSEBENCH_DATA", str(tmp_path))
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


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    """What the grid comes to one cell after another, by Hydra's own sweeper and launcher."""
    bench = Bench(tmp_path_factory.mktemp("reference"))
    answer = bench.train(*GRID, "hydra/sweeper=basic", "hydra/launcher=basic")
    assert answer.code == 0, answer.err
    found = bench.results()
    assert len(found) == 4
    return found
