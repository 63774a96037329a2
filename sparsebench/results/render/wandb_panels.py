"""The panels of a Weights & Biases workspace as plain data."""

from __future__ import annotations

from typing import Any

from sparsebench.results.schema import KEYS, describe

STEP = "trainer/global_step"
"""Optimizer steps, as Lightning names them in W&B."""

Panel = dict[str, Any]


def specification(project: str, entity: str | None = None, *, name: str = "sparsebench") -> dict[str, Any]:
    """Return the workspace as sections of panels.

    A panel has a ``kind`` (``line``: history against history; ``scatter``: one point per run, from its result; ``bar``:
    one bar per metric and run) and a title; its other keys are arguments of the panel of that kind in the package
    wandb-workspaces. The schema assigns metrics to the panels of histories.

    Args:
        project: W&B project.
        entity: user or team; None leaves it to the account.
        name: name of the workspace.
    """
    return {
        "project": project,
        "entity": entity,
        "name": name,
        "sections": [{"name": "Results", "panels": _results()}, *_histories()],
    }


def _results() -> list[Panel]:
    return [
        _scatter("sparsity", "test_accuracy"),
        _scatter("train_flops_ratio", "test_accuracy", log_x=True),
        _scatter("inference_flops_ratio", "test_accuracy", log_x=True),
        {"kind": "bar", "title": "Images per second", "metrics": ["images_per_second"]},
    ]


def _histories() -> list[Panel]:
    """Return the schema's sections of histories, each metric on its panel."""
    sections: dict[str, dict[str, list[str]]] = {}
    for key in KEYS:
        section, _, title = key.panel.partition("/")
        if title:
            sections.setdefault(section, {}).setdefault(title, []).append(key.name)
    found = [
        {"name": section, "panels": [_line(*panel) for panel in panels.items()]} for section, panels in sections.items()
    ]
    found[-1]["panels"].append(_line("Accuracy against training FLOPs", ["val_accuracy"], x="train_flops"))
    return found


def _line(title: str, metrics: list[str], x: str = STEP) -> Panel:
    if metrics[0].endswith("/*"):
        return {"kind": "line", "title": title, "x": x, "metric_regex": metrics[0].replace("*", ".*"), "log_y": True}
    return {"kind": "line", "title": title, "x": x, "y": metrics}


def _scatter(x: str, y: str, **more: Any) -> Panel:
    title = f"{describe(y).name_for_people} against {describe(x).name_for_people}"
    return {"kind": "scatter", "title": title[0].upper() + title[1:], "x": x, "y": y, **more}
