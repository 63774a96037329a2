"""Second-order scores of weights, and compensation for their removal, by a block-diagonal empirical Fisher matrix."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import cast

import torch
from torch import Tensor

from sparsebench.functional.score import Objectives, each_gradient


class BlockFisher:
    """The inverse of an empirical Fisher matrix, of which blocks along the diagonal alone are kept.

    With gradients g_1 ... g_N of one tensor, read in rows, the matrix is ``damp I + (1 / N) sum g g^T``, cut into
    blocks of ``block`` weights. Its inverse is updated gradient by gradient (Sherman and Morrison), in
    float64: with little damping it is near singular.

    Args:
        size: number of weights.
        count: number N of gradients that will be added.
        block: weights of a block; the last one may be padded.
        damp: added to the diagonal.
        device: where the blocks lie.

    Attributes:
        inverse: [blocks, block, block].

    Source: Kurtic et al. 2022 (arXiv 2203.07259), section 3, and Singh & Alistarh 2020 (arXiv 2004.14340).
    """

    def __init__(
        self, size: int, *, count: int, block: int = 50, damp: float = 1e-7, device: torch.device | None = None
    ) -> None:
        if block < 1 or count < 1 or damp <= 0:
            raise ValueError(f"block={block}, count={count}, damp={damp:g}: all must be above 0")
        self.size, self.count, self.block = size, count, min(block, size)
        blocks = math.ceil(size / self.block)
        eye = torch.eye(self.block, dtype=torch.float64, device=device) / damp
        self.inverse = eye.expand(blocks, -1, -1).clone()

    def add(self, gradient: Tensor) -> None:
        """Add the outer product of one gradient of ``size`` numbers, any shape."""
        g = self.blocks(gradient)
        image = torch.bmm(self.inverse, g[:, :, None])[:, :, 0]
        scale = (self.count + (g * image).sum(dim=1)).rsqrt()
        image = image * scale[:, None]
        self.inverse.baddbmm_(image[:, :, None], image[:, None, :], alpha=-1)

    def blocks(self, values: Tensor) -> Tensor:
        """Return values of ``size`` numbers as [blocks, block], padded with zeros."""
        flat = values.detach().reshape(-1).to(self.inverse.dtype)
        padded = flat.new_zeros(len(self.inverse) * self.block)
        padded[: self.size] = flat
        return padded.reshape(-1, self.block)

    def flat(self, blocks: Tensor, like: Tensor) -> Tensor:
        """Return [blocks, block] in the shape of ``like``: the inverse of ``blocks``."""
        return blocks.reshape(-1)[: self.size].reshape(like.shape)

    @property
    def diagonal(self) -> Tensor:
        """Diagonal of the inverse, [blocks, block]."""
        return self.inverse.diagonal(dim1=1, dim2=2)


def saliency(weight: Tensor, fisher: BlockFisher) -> Tensor:
    """Return ``w^2 / (2 [F^-1]_ii)``: by how much the loss rises, to second order, when one weight goes alone.

    Args:
        weight: any shape; the result has it, in float64.
        fisher: of this weight.

    Source: Hassibi & Stork 1993; Kurtic et al. 2022, equation 4.
    """
    return fisher.flat(fisher.blocks(weight) ** 2 / (2 * fisher.diagonal), weight)


def chained_saliency(weight: Tensor, fisher: BlockFisher, mask: Tensor | None = None) -> Tensor:
    """Return by how much the loss has risen when a weight goes, after all that go before it in its block.

    In each block the weight of least saliency goes first, the others are compensated, and the inverse is that of the
    matrix without it; then the next one goes. Sums along the way are the scores, so that their order within a block is
    that of removal.

    Args:
        weight: any shape; the result has it, in float64.
        fisher: of this weight.
        mask: bool, same shape; weights outside it have gone before and score 0.

    Source: Kuznedelev et al. 2023 (CAP, arXiv 2210.09223), algorithm 1.
    """
    w, inverse = fisher.blocks(weight), fisher.inverse.clone()
    every = torch.arange(len(w), device=w.device)
    there = fisher.blocks(torch.ones_like(weight) if mask is None else mask) > 0
    gone, scores, risen = torch.zeros_like(there), torch.zeros_like(w), w.new_zeros(len(w))
    # first those that are not there: they go without loss, and leave the matrix
    for _ in range(fisher.block):
        cost = w**2 / (2 * inverse.diagonal(dim1=1, dim2=2))
        cost = torch.where(there, cost, -1.0).masked_fill(gone, math.inf)
        least, place = cost.min(dim=1)
        risen = risen + least.clamp(min=0)
        scores[every, place] = risen
        row = inverse[every, place]
        pivot = row[every, place]
        w = w - row * (w[every, place] / pivot)[:, None]
        gone[every, place] = True
        w[gone] = 0.0
        row = row / pivot.sqrt()[:, None]
        inverse.baddbmm_(row[:, :, None], row[:, None, :], alpha=-1)
        inverse.diagonal(dim1=1, dim2=2)[gone] = 1.0  # removed: never divided by again
    return fisher.flat(scores, weight)


def compensated(weight: Tensor, fisher: BlockFisher, mask: Tensor, *, jointly: bool = True) -> Tensor:
    """Return the weights after those outside the mask have gone and the others have moved to make up for it.

    Args:
        weight: any shape.
        fisher: of this weight.
        mask: bool, same shape; the weights that stay.
        jointly: the best move for all removals of a block together, ``w - F^-1_{.S} (F^-1_SS)^-1 w_S``, which equals
            removing them one after the other. If not, the sum of the moves for each alone, ``w_i F^-1_{.i} / F^-1_ii``.
    """
    w, lost = fisher.blocks(weight), fisher.blocks(~mask)
    leaving = w * lost
    if jointly:
        both = fisher.inverse * lost[:, :, None] * lost[:, None, :] + torch.diag_embed(1 - lost)
        pull = cast(Tensor, torch.linalg.solve(both, leaving))  # pyright: ignore[reportUnknownMemberType]
    else:
        pull = leaving / fisher.diagonal
    moved = w - torch.bmm(fisher.inverse, pull[:, :, None])[:, :, 0]
    return fisher.flat(moved, weight).masked_fill(~mask, 0.0).to(weight.dtype)


def fishers(
    gradients: Iterable[Mapping[str, Tensor]], params: Mapping[str, Tensor], *, count: int, block: int, damp: float
) -> dict[str, BlockFisher]:
    """Return the inverse Fisher matrix of each weight.

    Args:
        gradients: ``count`` gradients by name of weight.
        params: the weights.
        count: number of gradients.
        block: weights of a block.
        damp: added to the diagonal.
    """
    found = {n: BlockFisher(p.numel(), count=count, block=block, damp=damp, device=p.device) for n, p in params.items()}
    for slopes in gradients:
        for name, fisher in found.items():
            fisher.add(slopes[name])
    return found


def obert(
    objective: Objectives, params: Mapping[str, Tensor], *, block: int = 50, damp: float = 1e-7
) -> dict[str, Tensor]:
    """Score each weight by ``w^2 / (2 [F^-1]_ii)``, F the block-diagonal empirical Fisher matrix of several objectives.

    Args:
        objective: weights to loss, one per gradient; hundreds of them make a good matrix.
        params: name to weight.
        block: weights of a block.
        damp: added to the diagonal.

    Source: Kurtic et al. 2022 (oBERT).
    """
    count = 1 if callable(objective) else len(objective)
    found = fishers(each_gradient(objective, params), params, count=count, block=block, damp=damp)
    return {name: saliency(params[name], fisher) for name, fisher in found.items()}
