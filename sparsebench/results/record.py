"""Contents of ``result.json``: everything about a finished run that tables may show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import Parameter

from sparsebench.cost.flops import LayerCost, dense_flops, inference_flops
from sparsebench.cost.speed import hardware
from sparsebench.runs.source import commit, version_of
from sparsebench.sparse import digest

PACKAGES = ("sparsebench", "torch", "torchvision", "lightning", "hydra-core", "timm", "torchmetrics")


def densities_of(
    params: Mapping[str, Parameter], weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]
) -> dict[str, float]:
    """Return the share of active weights of each layer: in its mask, or its non-zero weights without a mask.

    Raises:
        ValueError: a weight outside its mask is not zero.
    """
    shares: dict[str, float] = {}
    for name in params:
        weight = weights[name]
        active = masks.get(name, weight != 0)
        if name in masks and bool(weight[~active].count_nonzero()):
            raise ValueError(f"{name} has weights outside its mask: they must be zero in saved weights")
        shares[name] = int(active.sum()) / weight.numel()
    return shares


def describe_network(
    net: nn.Module,
    params: Mapping[str, Parameter],
    costs: Sequence[LayerCost],
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
) -> dict[str, Any]:
    """Measure sparsity, inference cost and digests of trained weights."""
    densities = densities_of(params, weights, masks)
    prunable = sum(p.numel() for p in params.values())
    everything = sum(p.numel() for p in net.parameters())
    active = sum(round(densities[name] * p.numel()) for name, p in params.items())
    dense, sparse = dense_flops(costs), inference_flops(costs, densities)
    return {
        "sparsity": 1 - active / prunable,
        "sparsity_all": (prunable - active) / everything,
        "active_weights": active,
        "prunable_weights": prunable,
        "parameters": everything,
        "dense_layers": [name for name, density in densities.items() if density == 1.0],
        "density_per_layer": densities,
        "inference_flops": sparse,
        "inference_flops_ratio": sparse / dense,
        "mask_digest": digest(masks),
        "weights_digest": digest(weights),
    }


def environment() -> dict[str, Any]:
    """Return the hardware, the versions of the packages that affect results, and our commit."""
    found = {name: version_of(name) for name in PACKAGES}
    versions = {name: version for name, version in found.items() if version is not None}
    return {"versions": versions, "commit": commit(), "hardware": hardware()}


def without_nan(value: Any) -> Any:
    """Replace values that JSON cannot hold, such as a speed that was never measured, by None."""
    if isinstance(value, Mapping):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
