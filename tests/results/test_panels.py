"""The W&B workspace as plain data: complete, and made of metrics that are logged."""

import json

import pytest

from sparsebench.app.cli.dashboard import workspace
from sparsebench.results.render.wandb_panels import STEP, specification


def panels():
    return [panel for section in specification("p")["sections"] for panel in section["panels"]]


def metrics():
    """Metrics of histories, and of results."""
    history = {name for panel in panels() if panel["kind"] == "line" for name in (panel["x"], *panel.get("y", ()))}
    results = {panel[axis] for panel in panels() if panel["kind"] == "scatter" for axis in ("x", "y")}
    return history - {STEP}, results | {name for panel in panels() for name in panel.get("metrics", ())}


def test_every_panel_that_was_asked_for_is_there():
    history, results = metrics()
    asked = {"val_accuracy", "sparsity", "sparsity_target", "drop_fraction", "explored", "mask_change", "train_flops"}
    assert asked <= history
    assert any(panel.get("metric_regex") == "density/.*" for panel in panels())
    assert any(panel["x"] == "train_flops" and panel["y"] == ["val_accuracy"] for panel in panels() if "y" in panel)
    assert {"test_accuracy", "train_flops_ratio"} <= results


def test_it_is_plain_data_with_unlike_titles():
    assert json.loads(json.dumps(specification("p", "e"))) == specification("p", "e")
    titles = [panel["title"] for panel in panels()]
    assert len(titles) == len(set(titles))


def test_wandb_workspaces_understands_it():
    pytest.importorskip("wandb_workspaces", reason="the package wandb-workspaces is not installed")
    made = workspace(specification("project"), "entity")
    text = str(made._to_model().model_dump())
    for word in ("density/.*", "summary:test_accuracy", "drop_fraction", "train_flops"):
        assert word in text
