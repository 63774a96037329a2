"""Finished runs as rows and as a data frame."""

import importlib.util

import pytest
from written_runs import write_run

import sparsebench.results


@pytest.fixture
def outputs(tmp_path):
    for seed, rate in enumerate((0.1, 0.2)):
        write_run(tmp_path / f"{seed}", seed=seed, test_accuracy=0.5 + seed / 4, config={"optimizer": {"lr": rate}})
    return tmp_path


def test_one_row_per_run_with_the_settings_asked_for(outputs):
    rows = sparsebench.results.read_results(outputs, settings=["optimizer.lr"])
    assert [(row["seed"], row["optimizer.lr"], row["test_accuracy"]) for row in rows] == [(0, 0.1, 0.5), (1, 0.2, 0.75)]
    assert [row["folder"] for row in rows] == [str(outputs / "0"), str(outputs / "1")]


def test_unknown_settings_and_empty_folders_are_refused(outputs, tmp_path):
    with pytest.raises(ValueError, match=r"no run has a setting 'optimizer.rl'.*optimizer.lr"):
        sparsebench.results.read_results(outputs, settings=["optimizer.rl"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no finished run"):
        sparsebench.results.read_results(tmp_path / "empty")
    with pytest.raises(ValueError, match="is not a folder"):
        sparsebench.results.read_results(tmp_path / "nothing")


@pytest.mark.skipif(importlib.util.find_spec("pandas") is not None, reason="pandas is installed")
def test_without_pandas_one_line_says_what_to_install(outputs):
    with pytest.raises(ValueError, match=r"needs the package pandas: install sparsebench\[frame\]"):
        sparsebench.results.frame(outputs)


def test_a_data_frame_has_a_row_per_run(outputs):
    pytest.importorskip("pandas")
    table = sparsebench.results.frame(outputs, settings=["optimizer.lr"])
    assert table["test_accuracy"].mean() == pytest.approx(0.625)
    assert list(table.groupby("optimizer.lr")["seed"].first()) == [0, 1]
