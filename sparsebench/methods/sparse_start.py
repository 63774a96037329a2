"""Sparse initialisation: whole units drawn with exact counts, and positive biases that keep signals flowing."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import Parameter

from sparsebench.functional.counts import counts
from sparsebench.functional.select import random_mask
from sparsebench.optim.regularizer import check_regularizer
from sparsebench.sparse.model import SparseModel


def draw_units(
    net: SparseModel, densities: Mapping[str, float] | float, units: str | None
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Draw masks of whole units, without replacement and with exact counts; each layer keeps at least one.

    Args:
        net: the model; draws depend only on its seed and the names of the layers.
        densities: share of units that stay, per layer or one number for all layers.
        units: groups of weights that are zero together, by the name of the regulariser.

    Returns:
        Bool masks, and the shares really kept, by parameter name.
    """
    shapes = {name: unit_shape(shape, units) for name, shape in net.shapes.items()}
    layers = densities if isinstance(densities, Mapping) else dict.fromkeys(shapes, densities)
    kept = {name: max(1, count) for name, count in counts(shapes, layers, minimum=0).items()}
    masks: dict[str, Tensor] = {}
    for name, parameter in net.params.items():
        shape = shapes[name]
        drawn = random_mask(shape, kept[name], net.generator("start", name)).to(parameter.device)
        masks[name] = drawn.reshape(shape + (1,) * (parameter.dim() - len(shape))).expand(parameter.shape)
    return masks, {name: kept[name] / math.prod(shapes[name]) for name in kept}


def unit_shape(shape: tuple[int, ...], units: str | None) -> tuple[int, ...]:
    """Return the shape in which a weight's units are counted: (out,) for rows and filters, (out, in) for kernels."""
    check_regularizer(units, (torch.empty(shape, device="meta"),))
    return {"rows": shape[:1], "filters": shape[:1], "kernels": shape[:2]}.get(units or "l1", shape)


def draw_positive_(bias: Parameter, fan_in: int, generator: torch.Generator) -> None:
    """Fill a bias uniformly from (0, 1 / sqrt(fan_in)]."""
    drawn = 1.0 - torch.rand(bias.shape, generator=generator)
    bias.copy_(drawn / math.sqrt(fan_in))
