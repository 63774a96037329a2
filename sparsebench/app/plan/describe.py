"""Describe a run before it starts: layers, densities, FLOPs and steps, from a traced sample and a rehearsal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparsebench.runs.identity import method_name, model_name

if TYPE_CHECKING:
    from sparsebench.cost.layers import PlanRow

_ASSUMED = "the images are missing: the length of training assumes the published set, {count:,} training images"


def describe(config: Mapping[str, Any], *, execution: bool = False) -> dict[str, Any]:
    """Return all facts about a run known before it starts: layers, densities, FLOPs, steps.

    Keys shared with ``result.json`` have the same meaning there.

    Args:
        config: a frozen configuration.
        execution: time the ways to compute each layer, too.
    """
    from sparsebench.app.config.build import build_recipe, build_setup
    from sparsebench.app.plan.rehearsal import Rehearsal
    from sparsebench.app.process.console import quieten
    from sparsebench.cost.layers import plan_rows

    quieten()
    setup = build_setup({**config, "logger": {"kind": "none"}})
    images, notes = training_images(setup.data)
    length = _length(config, images)
    rehearsal = Rehearsal.of(setup, length=length, settings=config["trainer"])
    state = build_recipe(config)(rehearsal)
    net = setup.network()
    params = setup.prunable.select(net)
    densities = _densities(params, state, dense=setup.method.budget_holds == "always")
    costs = setup.costs(net)
    facts, networks = state.facts, 1 + len(state.members)
    return {
        **names_of(config),
        "epochs": facts["epochs"],
        "steps": facts["steps"],
        "batch_size": length.batch * length.accumulate,
        "training_images": images,
        **_weights(net, params, densities),
        "density_per_layer": densities,
        "shapes": {name: list(p.shape) for name, p in params.items()},
        "layers": _layers(plan_rows(costs, densities), params),
        "networks": networks,
        **_inference(costs, densities, networks),
        **{key: facts[key] for key in ("train_flops_dense", "train_flops", "train_flops_ratio")},
        "exact": not rehearsal.notes and not notes,
        "notes": [*notes, *rehearsal.notes],
        **({"execution": _execution(config, setup, net, state.masks)} if execution else {}),
    }


def _execution(config: Mapping[str, Any], setup: Any, net: Any, masks: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the timings of each layer in a step of a batch, on the processor and the threads of this process."""
    from sparsebench.app.plan.execution import time_layers

    return time_layers(net, masks, shape=setup.data.shape, batch=config["dataset"]["batch_size"])


def _inference(costs: Any, densities: Mapping[str, float], networks: int) -> dict[str, Any]:
    from sparsebench.cost.flops import dense_flops, inference_flops

    return {
        "inference_flops_dense": int(dense_flops(costs)),
        "inference_flops": networks * int(inference_flops(costs, densities)),
        "inference_flops_ratio": networks * inference_flops(costs, densities) / dense_flops(costs),
    }


def training_images(data: Any) -> tuple[int, list[str]]:
    """Return the number of training images, without reading them, and remarks about that number.

    Raises:
        FileNotFoundError: the images are missing, and the published number is unknown.
    """
    notes: list[str] = []
    own_validation = False
    if data.train_images is not None:
        count = data.train_images
    else:
        try:
            data.check()
            count, own_validation = len(data.read_train()), data.read_val() is not None
        except FileNotFoundError:
            if data.published_images is None:
                raise
            count = data.published_images
            notes = [_ASSUMED.format(count=count)]
    held_out = 0 if own_validation else round(data.val_share * count)
    left = count - held_out
    return (left if data.limit is None else min(left, data.limit)), notes


def names_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the identifying names of a cell under the keys of ``result.json``."""
    choices, density = config["choices"], config["method"].get("density")
    return {
        "method": method_name(choices),
        "model": model_name(config),
        "dataset": choices["dataset"],
        "recipe": choices["recipe"],
        "seed": config["seed"],
        "sparsity_target": None if density is None else round(1 - density, 12),
        "distribution": None if density is None else choices["distribution"],
    }


def _length(config: Mapping[str, Any], images: int) -> Any:
    from sparsebench.app.plan.rehearsal import Length

    trainer = config["trainer"]
    return Length(
        images=images,
        batch=config["dataset"]["batch_size"],
        accumulate=trainer["accumulate_grad_batches"],
        limit=trainer["limit_train_batches"],
    )


def _densities(params: Mapping[str, Any], state: Any, *, dense: bool) -> dict[str, float]:
    """Return the share of active weights of each layer: ones of its mask, or non-zero weights without a mask."""
    found: dict[str, float] = {}
    for name, parameter in params.items():
        weight = state.weights[name]
        if name not in state.masks and dense:
            found[name] = 1.0
        else:
            found[name] = int(state.masks.get(name, weight != 0).sum()) / parameter.numel()
    return found


def _weights(net: Any, params: Mapping[str, Any], densities: Mapping[str, float]) -> dict[str, Any]:
    prunable = sum(p.numel() for p in params.values())
    everything = sum(p.numel() for p in net.parameters())
    active = sum(round(densities[name] * p.numel()) for name, p in params.items())
    return {
        "sparsity": 1 - active / prunable,
        "sparsity_all": (prunable - active) / everything,
        "active_weights": active,
        "prunable_weights": prunable,
        "excluded_parameters": everything - prunable,
        "parameters": everything,
    }


def _layers(rows: Sequence[PlanRow], params: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": row.name,
            "shape": list(row.shape),
            "weights": math.prod(row.shape) if row.shape else 0,
            "prunable": row.name in params,
            "density": row.density,
            "active_weights": round(row.density * math.prod(row.shape)) if row.shape else 0,
            "inference_flops_dense": row.dense_flops,
            "inference_flops": row.active_flops,
        }
        for row in rows
    ]
