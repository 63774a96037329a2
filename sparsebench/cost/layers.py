"""Cost of a network at given densities, computed without training it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sparsebench.cost.flops import FLOPS_PER_MAC, LayerCost, active_macs, dense_macs


@dataclass(frozen=True)
class PlanRow:
    """Cost of one weight in one forward pass of one sample, over all its uses; FLOPs are 2 per MAC.

    Attributes:
        name: the parameter, or the module of a product without weights.
        shape: shape of the weight; empty without one.
        density: share of active weights.
        dense_flops: FLOPs with every weight present.
        active_flops: FLOPs with the active weights.
    """

    name: str
    shape: tuple[int, ...]
    density: float
    dense_flops: int
    active_flops: int


def forward_ratio(costs: Iterable[LayerCost], densities: Mapping[str, float]) -> float:
    """Return the FLOP density phi: active over dense FLOPs of one forward pass.

    Args:
        costs: the result of ``layer_costs``.
        densities: share of active weights by parameter name; 1 where a name is missing.
    """
    costs = tuple(costs)
    whole = dense_macs(costs)
    if not whole:
        raise ValueError("a network without convolutions, linear layers or products has no FLOPs to compare")
    return active_macs(costs, densities) / whole


def plan_rows(costs: Sequence[LayerCost], densities: Mapping[str, float]) -> list[PlanRow]:
    """List the cost of each weight, in order of first use; the rows sum to the whole forward pass.

    Args:
        costs: the result of ``layer_costs``.
        densities: share of active weights by parameter name; 1 where a name is missing.
    """
    groups: dict[tuple[bool, str], list[LayerCost]] = {}
    for cost in costs:
        key = (False, cost.name) if cost.parameter is None else (True, cost.parameter)
        groups.setdefault(key, []).append(cost)
    return [
        PlanRow(
            name,
            uses[0].shape,
            densities.get(name, 1.0) if weighted else 1.0,
            FLOPS_PER_MAC * dense_macs(uses),
            FLOPS_PER_MAC * active_macs(uses, densities),
        )
        for (weighted, name), uses in groups.items()
    ]
