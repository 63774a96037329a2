"""Spend a budget on whole units of weights: which of them, and how many in each layer."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from sparsebench.functional.select import keep_top, keep_top_global

Shapes = Mapping[str, tuple[int, ...]]


def best(scores: Tensor, among: Tensor, k: int) -> Tensor:
    """Mark the k largest scores among the marked entries; others are gathered away, never scored down."""
    chosen = torch.zeros(among.numel(), dtype=torch.bool, device=among.device)
    places = among.reshape(-1).nonzero().reshape(-1)
    chosen[places[keep_top(scores.reshape(-1)[places], k)]] = True
    return chosen.reshape(among.shape)


def compete(sums: Mapping[str, Tensor], sizes: Mapping[str, int], budget: int) -> dict[str, Tensor]:
    """Rank the units of all layers by score per weight, and take from the top what the budget pays for."""
    means = {name: value / sizes[name] for name, value in sums.items()}
    order = torch.cat([value.reshape(-1) for value in means.values()]).sort(descending=True, stable=True).indices
    prices = torch.cat([torch.full((v.numel(),), sizes[n], device=order.device) for n, v in means.items()])
    return keep_top_global(means, int((prices[order].cumsum(0) <= budget).sum()))


def portion(count: int, share: float, *, unit: int = 1, up: bool = False) -> int:
    """Return a share of a count in whole units, rounded down, or up."""
    exact = round(share * count / unit, 9)  # 0.3 * 10 is 3.0000000000000004 for floats: such dust must not count
    return unit * (math.ceil(exact) if up else math.floor(exact))


def whole_steps(shapes: Shapes, densities: Mapping[str, float], steps: Mapping[str, int]) -> dict[str, int]:
    """Round each layer down to whole steps, then raise the largest remainders while the total comes nearer.

    Raises:
        ValueError: a layer has less than half a step; from there on it gets one.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    quotas = {name: densities[name] * sizes[name] / steps[name] for name in shapes}
    whole = {name: math.floor(round(quota, 6)) or int(quota >= 0.5) for name, quota in quotas.items()}
    target = round(math.fsum(densities[name] * sizes[name] for name in shapes), 6)
    left = target - sum(whole[name] * steps[name] for name in shapes)
    for name in sorted(shapes, key=lambda name: -round(quotas[name] - whole[name], 6)):
        if whole[name] < sizes[name] // steps[name] and 2 * left >= steps[name]:
            whole[name], left = whole[name] + 1, left - steps[name]
    for name, count in whole.items():
        if count == 0:
            raise ValueError(
                f"{name} is made of {sizes[name] // steps[name]} parts of {steps[name]} weights and would keep none "
                f"at density {densities[name]:.4g}: choose a sparsity of at most {1 - steps[name] / sizes[name]:.4g} "
                f"there, a finer pattern, or prunable.exclude=[{name}]"
            )
    return {name: whole[name] * steps[name] for name in shapes}
