"""Convert densities to whole numbers of weights, per layer or over all layers, and to masks of that size."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from sparsebench.functional.select import keep_top_each, keep_top_global

Shapes = Mapping[str, tuple[int, ...]]

Budget = Mapping[str, int] | int
"""Number of weights to keep: per layer, or one number for all layers together."""


def global_budget(shapes: Shapes, density: float) -> float:
    """Return the density unchanged, one number for all layers, which then compete for one global budget."""
    del shapes
    return density


def budget(shapes: Shapes, densities: Mapping[str, float] | float) -> Budget:
    """Convert densities to exact counts: ``round(density * size)`` in total.

    Args:
        shapes: shape of each layer.
        densities: a density per layer, or one for all layers together.
    """
    if isinstance(densities, Mapping):
        return counts(shapes, densities)
    shared = counts(shapes, dict.fromkeys(shapes, densities), minimum=0)
    return sum(shared.values())


def counts(shapes: Shapes, densities: Mapping[str, float], *, minimum: int = 1) -> dict[str, int]:
    """Convert densities to whole numbers of weights that sum to round(sum of density times size).

    Each layer gets its quota rounded down; the rest goes to the largest remainders, ties in the order of
    ``shapes``.

    Args:
        shapes: Name to shape of the weight.
        densities: Name to density in [0, 1], for the same names.
        minimum: Smallest number of weights that a layer may keep; 0 allows empty layers.

    Raises:
        ValueError: names differ, a density is out of range, or a layer would have fewer than ``minimum`` weights.
    """
    if shapes.keys() != densities.keys():
        name = sorted(shapes.keys() ^ densities.keys())[0]
        raise ValueError(f"shapes and densities must name the same layers; {name!r} is in one of them only")
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    for name, value in densities.items():
        if not 0 <= value <= 1:
            raise ValueError(f"density {value:g} (sparsity {1 - value:g}) of {name!r} must be in [0, 1]")
    quotas = {name: densities[name] * sizes[name] for name in shapes}
    whole = {name: math.floor(quota) for name, quota in quotas.items()}
    # Rounded to 6 digits, since 0.1 * 30 is not 3 in floating point: equal remainders must compare equal, and a half
    # must stay a half for the total to be round(density * size).
    left = round(round(math.fsum(quotas.values()), 6)) - sum(whole.values())
    ranking = sorted(shapes, key=lambda name: -round(quotas[name] - whole[name], 6))
    for name in ranking[:left]:
        whole[name] += 1
    for name, count in whole.items():
        least = min(minimum, sizes[name])
        if count < least:
            raise ValueError(
                f"{name!r} with {sizes[name]} weights at density {densities[name]:.6g} would keep {count}; "
                f"use a sparsity of at most {1 - least / sizes[name]:.6g} there, a smaller overall sparsity, "
                f"or another distribution"
            )
    return whole


def whole_steps(shapes: Shapes, densities: Mapping[str, float], steps: Mapping[str, int]) -> dict[str, int]:
    """Round each layer down to whole steps, then raise the largest remainders while that brings the total nearer.

    Raises:
        ValueError: a layer has less than half a step; half a step or more is rounded up to one.
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


def portion(count: int, share: float, *, unit: int = 1, up: bool = False) -> int:
    """Return a fraction of a count in whole units, rounded down or up."""
    exact = round(share * count / unit, 9)  # 0.3 * 10 is 3.0000000000000004 in floating point
    return unit * (math.ceil(exact) if up else math.floor(exact))


def keep(scores: Mapping[str, Tensor], kept: Budget) -> dict[str, Tensor]:
    """Return boolean masks of the largest scores that use a budget exactly; ties go to the smaller index."""
    return keep_top_global(scores, kept) if isinstance(kept, int) else keep_top_each(scores, kept)
