"""dashboard: the specification without a network, and clear words without the package or the account."""

import importlib.util
import json

import pytest

from sparsebench.results.render.wandb_panels import specification


def test_a_dry_run_prints_the_specification(cli):
    answer = cli("dashboard", "--dry-run", "--project", "p", "--entity", "e", "--name", "n")
    assert (answer.code, answer.err) == (0, "")
    assert json.loads(answer.out) == specification("p", "e", name="n")


def test_a_missing_package_is_one_line(cli, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    answer = cli("dashboard")
    assert answer.code == 2
    assert "sparsebench[dashboard]" in answer.err
    assert len(answer.err.strip().splitlines()) == 1


def test_what_wandb_refuses_is_one_line(cli, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())

    class Refuses:
        def __init__(self):
            raise wandb.errors.UsageError("no key\nat all")

    monkeypatch.setattr(wandb, "Api", Refuses)
    answer = cli("dashboard")
    assert answer.code == 1
    assert "no key at all" in answer.err
    assert len(answer.err.strip().splitlines()) == 1
