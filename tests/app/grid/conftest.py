"""The command line in this process or in one of its own, and what the grid comes to one cell after another."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from grids import GRID, Bench


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.end()


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    """What the grid comes to one cell after another, by Hydra's own sweeper and launcher."""
    bench = Bench(tmp_path_factory.mktemp("reference"))
    answer = bench.train(*GRID, "hydra/sweeper=basic", "hydra/launcher=basic")
    assert answer.code == 0, answer.err
    found = bench.results()
    assert len(found) == 4
    return found
