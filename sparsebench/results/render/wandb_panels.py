"""The panels of a Weights & Biases workspace, as plain data."""

from __future__ import annotations

from typing import Any

STEP = "trainer/global_step"
"""Optimizer steps, as Lightning names them in W&B."""

Panel = dict[str, Any]


def specification(project: str, entity: str | None = None, *, name: str = "sparsebench") -> dict[str, Any]:
    """Return a workspace: sections of panels.

    A panel has a ``kind`` (``line``: history against history; ``scatter``: one point per run, from its result; ``bar``:
    one bar per metric and run) and a title; its other keys are arguments of the panel of that kind in the package
    wandb-workspaces. Every metric is one that ``SparsityMonitor``, the classifier or ``result.json`` provides.

    Args:
        project: W&B project.
        entity: user or team; None leaves it to the account.
        name: of the workspace.
    """
    return {
        "project": project,
        "entity": entity,
        "name": name,
        "sections": [
            {"name": "Results", "panels": _results()},
            {"name": "Training", "panels": _training()},
            {"name": "Sparsity", "panels": _sparsity()},
            {"name": "Cost", "panels": _cost()},
        ],
    }


def _results() -> list[Panel]:
    return [
        _scatter("Test accuracy against sparsity", "sparsity", "test_accuracy"),
        _scatter("Test accuracy against training FLOPs", "train_flops_ratio", "test_accuracy", log_x=True),
        _scatter("Test accuracy against inference FLOPs", "test_flops_ratio", "test_accuracy", log_x=True),
    ]


def _training() -> list[Panel]:
    return [
        _line("Accuracy", ["val_accuracy", "train_accuracy"]),
        _line("Loss", ["val_loss", "train_loss"]),
        _line("Learning rate", ["lr"]),
    ]


def _sparsity() -> list[Panel]:
    return [
        _line("Sparsity, target and actual", ["sparsity", "sparsity_target"]),
        {"kind": "line", "title": "Density of each layer", "x": STEP, "metric_regex": "density/.*", "log_y": True},
        _line("Drop fraction", ["drop_fraction"]),
        _line("Exploration", ["explored"]),
        _line("Mask change", ["mask_change"]),
        _line("Dead units and collapsed layers", ["dead_units", "collapsed_layers"]),
    ]


def _cost() -> list[Panel]:
    return [
        _line("Training FLOPs so far", ["train_flops"]),
        _line("Accuracy against training FLOPs", ["val_accuracy"], x="train_flops"),
        _line("Training FLOPs so far, relative to dense", ["train_flops_ratio"]),
        {"kind": "bar", "title": "Images per second", "metrics": ["images_per_second"]},
    ]


def _line(title: str, metrics: list[str], x: str = STEP) -> Panel:
    return {"kind": "line", "title": title, "x": x, "y": metrics}


def _scatter(title: str, x: str, y: str, **more: Any) -> Panel:
    return {"kind": "scatter", "title": title, "x": x, "y": y, **more}
