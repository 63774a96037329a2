"""Integer budgets, per layer or over all layers together, and the masks that spend them exactly."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sparsebench.functional import distribution
from sparsebench.functional.select import keep_top_each, keep_top_global

Budget = Mapping[str, int] | int
"""Weights that stay: a number per layer, or one number for all layers together."""


def whole(shapes: Mapping[str, tuple[int, ...]], density: float) -> float:
    """Return one density for all layers together: they compete for a global budget."""
    del shapes
    return density


def budget(shapes: Mapping[str, tuple[int, ...]], densities: Mapping[str, float] | float) -> Budget:
    """Turn densities into exact counts: ``round(density * size)`` in total.

    Args:
        shapes: shape of each layer.
        densities: a density per layer, or one for all layers together.
    """
    if isinstance(densities, Mapping):
        return distribution.counts(shapes, densities)
    shared = distribution.counts(shapes, dict.fromkeys(shapes, densities), minimum=0)
    return sum(shared.values())


def keep(scores: Mapping[str, Tensor], kept: Budget) -> dict[str, Tensor]:
    """Return bool masks of the largest scores that spend a budget exactly; ties go to the smaller index."""
    return keep_top_global(scores, kept) if isinstance(kept, int) else keep_top_each(scores, kept)
