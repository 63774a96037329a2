"""Random scores, the same on every rank."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsebench.sparse.model import SparseModel


def draw_scores(net: SparseModel, *path: int | str) -> dict[str, Tensor]:
    """Draw a uniform score for every weight: the k largest are a uniform choice of k."""
    scores: dict[str, Tensor] = {}
    for name, parameter in net.params.items():
        draw = torch.rand(parameter.shape, generator=net.generator(*path, name))
        scores[name] = draw.to(parameter.device)
    return scores
