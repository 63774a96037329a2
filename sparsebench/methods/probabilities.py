"""Operations on the learned probabilities of units: projection, repair of empty layers, and the most probable masks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sparsebench.execution.base import Masks
from sparsebench.execution.runtime import cpu
from sparsebench.functional.prox import project_budget
from sparsebench.functional.select import keep_top_each, keep_top_global


def fill_empty(masks: Masks, scores: Mapping[str, Tensor]) -> Masks:
    """Activate the most probable entry of each layer whose mask is empty."""
    for name, mask in masks.items():
        if not bool(mask.any()):
            masks = {**masks, name: keep_top_each({name: cpu(scores[name])}, {name: 1})[name]}
    return masks


@torch.no_grad()
def project_together_(scores: Mapping[str, Tensor], budget: float, *, equality: bool) -> None:
    """Project the probabilities of all layers together on a budget, in place."""
    flat = torch.cat([score.reshape(-1) for score in scores.values()])
    flat = project_budget(flat, budget, equality=equality)
    start = 0
    for score in scores.values():
        score.copy_(flat[start : start + score.numel()].reshape(score.shape))
        start += score.numel()


def most_probable(scores: Mapping[str, Tensor], count: int) -> Masks:
    """Keep the ``count`` largest scores overall, including the largest of each layer.

    Entries of probability 0 are left out, except for one in an otherwise empty layer, so that fewer may be kept. No
    draw would choose the others, and ties would fill up the first layers.
    """
    most = sum(max(1, int(score.count_nonzero())) for score in scores.values())
    first = {name: keep_top_each({name: score}, {name: 1})[name] for name, score in scores.items()}
    sure = {name: score.masked_fill(first[name], torch.inf) for name, score in scores.items()}
    return keep_top_global(sure, min(most, count))
