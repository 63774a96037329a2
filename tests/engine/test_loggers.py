"""metrics.csv: whole and in order after a resumption, whatever was killed when."""

import csv

import pytest

from sparsebench.engine.loggers import MetricsFile, build_loggers, close_loggers

CONFIG = {"name": "runs"}


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_of_one_step_are_one_row(tmp_path):
    log = MetricsFile(tmp_path / "metrics.csv")
    log.log_metrics({"loss": 1.5}, step=3)
    log.log_metrics({"accuracy": 0.25}, step=3)
    log.log_metrics({"loss": 0.5}, step=7)
    assert rows(tmp_path / "metrics.csv") == [
        {"step": "3", "epoch": "", "loss": "1.5", "accuracy": "0.25"},
        {"step": "7", "epoch": "", "loss": "0.5", "accuracy": ""},
    ]


def test_an_interrupted_file_equals_an_uninterrupted_one(tmp_path):
    whole, broken = tmp_path / "whole.csv", tmp_path / "broken.csv"
    log = MetricsFile(whole)
    for step in (1, 2, 3):
        log.log_metrics({"loss": 1 / step}, step=step)

    first = MetricsFile(broken)
    for step in (1, 2, 3):
        first.log_metrics(
            {"loss": 9.0 if step > 1 else 1.0, "gone": 1.0} if step == 3 else {"loss": 1 / step}, step=step
        )
    again = MetricsFile(broken)  # continues from a checkpoint at step 1
    again.log_metrics({"loss": 1 / 2}, step=2)
    again.log_metrics({"loss": 1 / 3}, step=3)
    assert broken.read_bytes() == whole.read_bytes()


def test_numbers_survive(tmp_path):
    log = MetricsFile(tmp_path / "metrics.csv")
    log.log_metrics({"flops": 123456789012345.0, "small": 1e-12}, step=0)
    MetricsFile(tmp_path / "metrics.csv").log_metrics({"x": 1}, step=1)
    first = rows(tmp_path / "metrics.csv")[0]
    assert float(first["flops"]) == pytest.approx(123456789012345.0, rel=1e-9)
    assert float(first["small"]) == 1e-12


def test_nothing_half_written_stays(tmp_path):
    MetricsFile(tmp_path / "metrics.csv").log_metrics({"loss": 1.0}, step=1)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def build(folder, **settings):
    return build_loggers(folder, settings=settings, config=CONFIG, label="run")


def test_kinds(tmp_path):
    assert build(tmp_path, kind="none") == []
    assert [type(logger).__name__ for logger in build(tmp_path, kind="csv")] == ["MetricsFile"]
    with pytest.raises(ValueError, match="logger 'tensorbord' is unknown: choose csv, tensorboard, wandb or none"):
        build(tmp_path, kind="tensorbord")


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"install sparsebench\[tensorboard\]"):
        build(tmp_path, kind="tensorboard")


def test_closing_twice_is_harmless(tmp_path):
    loggers = build(tmp_path, kind="csv")
    loggers[0].log_metrics({"loss": 1.0}, step=1)
    close_loggers(loggers)
    close_loggers(loggers, failed=True)
