"""Prune a layer of a trained network at once by the inputs that it sees: Wanda and SparseGPT."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from sparsebench.functional.select import keep_top

Choose = Callable[[Tensor, Tensor], Tensor]
"""Scores [rows, columns] and a bool mask of columns just reached -> bool mask of the weights that stay in them."""


def wanda(weight: Tensor, norms: Tensor) -> Tensor:
    """Score each weight by its magnitude times the norm of its input, ``|w_ij| ||x_j||``.

    Args:
        weight: [outputs, inputs].
        norms: of each input over all samples and places, [inputs]; a common factor does not matter.

    Source: Sun et al. 2024 (arXiv 2306.11695), equation 1.
    """
    return weight.detach().abs() * norms


def keep_rows(scores: Tensor, kept: int) -> Tensor:
    """Keep the same number of the largest scores in each row, as Wanda compares them; exactly ``kept`` in all.

    Where rows do not divide ``kept``, those rows keep one more of which the next score is largest.

    Args:
        scores: [rows, columns].
        kept: number of scores.

    Returns:
        bool, same shape.
    """
    rows, columns = scores.shape
    each, rest = divmod(kept, rows)
    order = scores.sort(dim=1, descending=True, stable=True).indices
    places = torch.empty_like(order).scatter_(1, order, torch.arange(columns, device=order.device).expand(rows, -1))
    mask = places < each
    if rest:
        lucky = keep_top(scores.gather(1, order[:, each : each + 1])[:, 0], rest)
        mask |= (places == each) & lucky[:, None]
    return mask


def inverse_factor(moments: Tensor, damp: float = 0.01) -> Tensor:
    """Return the upper Cholesky factor of the inverse of ``X X^T``, dampened by a share of its mean diagonal.

    Row i holds, from the diagonal on, what removing weight i asks of the later ones once all earlier ones are settled.

    Args:
        moments: ``X X^T`` over all samples and places, [inputs, inputs]; a common factor does not matter.
        damp: share of the mean diagonal that is added to the diagonal.

    Returns:
        [inputs, inputs] in float64.

    Source: Frantar & Alistarh 2023 (arXiv 2301.00774) and their code.
    """
    hessian = moments.double().clone()
    diagonal = hessian.diagonal()
    diagonal[diagonal == 0] = 1.0  # an input that is never on: any weight will do
    diagonal += damp * diagonal.mean()
    cholesky = cast(Callable[..., Tensor], torch.linalg.cholesky)  # pyright: ignore[reportUnknownMemberType]
    return cholesky(torch.cholesky_inverse(cholesky(hessian)), upper=True)


def sparsegpt(
    weight: Tensor, moments: Tensor, choose: Choose, *, step: int = 128, damp: float = 0.01
) -> tuple[Tensor, Tensor]:
    """Prune a matrix column by column, compensating each in the columns to the right.

    Masks are chosen for ``step`` columns at a time when these are reached, by ``w^2 / [U]_jj^2``, U the factor of the
    inverse; then each column j passes its error ``(w_j - q_j) / U_jj`` on to the later ones along the row ``U_j``.
    Weights of inputs that are never on become zero.

    Args:
        weight: [outputs, inputs].
        moments: ``X X^T``, [inputs, inputs].
        choose: scores and columns -> mask of what stays.
        step: columns of a choice.
        damp: share of the mean diagonal added to it.

    Returns:
        New weights, of the type of ``weight``, and the mask.

    Source: Frantar & Alistarh 2023, algorithm 1, and their code.
    """
    factor = inverse_factor(moments, damp)
    w = weight.detach().double().clone()
    w[:, moments.diagonal() == 0] = 0.0
    mask = torch.ones_like(w, dtype=torch.bool)
    columns = w.shape[1]
    for first in range(0, columns, step):
        reached = torch.zeros(columns, dtype=torch.bool, device=w.device)
        reached[first : first + step] = True
        mask[:, reached] = choose((w / factor.diagonal()) ** 2, reached)[:, reached]
        for j in range(first, min(first + step, columns)):
            error = w[:, j].masked_fill(mask[:, j], 0.0) / factor[j, j]
            w[:, j:] -= error[:, None] * factor[j, j:]
            w[:, j].masked_fill_(~mask[:, j], 0.0)
    return w.to(weight.dtype), mask
