"""Assemble ``result.json`` from a run, its final state and its configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sparsebench.cost.flops import LayerCost, layer_costs
from sparsebench.fits import Setup, State
from sparsebench.results.record import describe_network, environment
from sparsebench.runs.identity import identity, method_name, model_name


def outcome(setup: Setup, state: State, tested: Mapping[str, float], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the whole result of a run, ready for JSON."""
    net = setup.network()
    costs = layer_costs(net, torch.zeros(1, *setup.data.shape))
    choices = config["choices"]
    density = config["method"].get("density")
    return {
        "name": config["name"],
        "method": method_name(choices),
        "model": model_name(config),
        "dataset": choices["dataset"],
        "recipe": choices["recipe"],
        "seed": config["seed"],
        "batch_size": config["dataset"]["batch_size"] * config["trainer"]["accumulate_grad_batches"],
        "sparsity_target": None if density is None or config.get("masks_from") else round(1 - density, 12),
        "test_accuracy": tested["test_accuracy"],
        "test_top5": tested["test_top5"],
        "test_loss": tested["test_loss"],
        **state.facts,
        **_describe(setup, state, net, costs),
        "config_hash": identity(config),
        **environment(),
    }


def _describe(setup: Setup, state: State, net: nn.Module, costs: Sequence[LayerCost]) -> dict[str, Any]:
    """Describe the network; for an ensemble, one network with the inference cost of all."""
    described = describe_network(net, setup.prunable.select(net), costs, state.weights, state.masks)
    networks = 1 + len(state.members)
    cost = {key: described[key] * networks for key in ("inference_flops", "inference_flops_ratio")}
    return {**described, **cost, "networks": networks}
