"""Steps between two fits: prune the masks, rewind the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from sparsebench.fits.state import State
from sparsebench.methods.given import Given

if TYPE_CHECKING:
    from sparsebench.fits.run import Run


def pruning(run: Run) -> Given:
    """Return the method that a run prunes to, with its density, distribution and pattern.

    Raises:
        ValueError: the run's method chooses masks itself.
    """
    method = run.method
    if not method.given_masks:
        name = type(method).__name__
        raise ValueError(f"this recipe chooses the masks, and so does method {name}: leave method out, or method=given")
    method.budget(run.setup.blank)  # raises an error if the pattern or distribution cannot express the density
    return cast(Given, method)


def dense_masks(run: Run) -> dict[str, Tensor]:
    """Return masks of ones for all prunable parameters."""
    return {name: torch.ones(shape, dtype=torch.bool) for name, shape in run.setup.blank.shapes.items()}


def prune(run: Run, state: State, density: float) -> State:
    """Keep an exact number of the largest magnitudes among the active weights of a state.

    The method's distribution decides whether the ranking is global or within layers; of equal magnitudes the first
    stay.

    Raises:
        ValueError: a layer would have to grow.
    """
    method, masks = pruning(run), state.masks or dense_masks(run)
    scores = {name: state.weights[name].detach().abs().masked_fill(~mask, -1.0) for name, mask in masks.items()}
    pruned = method.pattern.keep(scores, method.budget(run.setup.blank, density))
    for name, mask in pruned.items():
        if bool((mask & ~masks[name]).any()):
            raise ValueError(
                f"{name} would regrow weights at density {density:g}: choose distribution=global or uniform, under "
                f"which no layer grows while the total shrinks"
            )
    return rewind(state, pruned)


def rewind(state: State, masks: Mapping[str, Tensor]) -> State:
    """Return a state's weights, zero outside the masks, without optimizer state, as the start of a new fit."""
    weights = {n: v.masked_fill(~masks[n], 0.0) if n in masks else v.clone() for n, v in state.weights.items()}
    return State(weights, dict(masks))


def density_of(masks: Mapping[str, Tensor]) -> float:
    """Return the share of active weights; 1 without masks."""
    return sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values()) if masks else 1.0
