"""Prune a trained network by a block-diagonal Fisher matrix, with compensation: oBERT and CAP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparsebench.functional.fisher import BlockFisher, chained_saliency, compensated, fishers, saliency
from sparsebench.recipes.pruners import Pruned, Pruner, Trained


@dataclass(frozen=True, kw_only=True)
class SecondOrder(Pruner):
    """Base of pruners by an empirical Fisher matrix.

    Args:
        gradients: how many make the matrix.
        images: of each gradient.
        block: weights of a block of the matrix.
        damp: added to its diagonal.
        rounds: how often the matrix is computed, and a share of the weights pruned.
    """

    gradients: int = 256
    images: int = 8
    block: int = 50
    damp: float = 1e-7
    rounds: int = 1

    def __post_init__(self) -> None:
        if min(self.gradients, self.images, self.block, self.rounds) < 1 or self.damp <= 0:
            raise ValueError(
                f"gradients={self.gradients}, images={self.images}, block={self.block}, rounds={self.rounds}, "
                f"damp={self.damp:g}: all must be above 0"
            )

    def passes(self, layers: int) -> tuple[float, float]:
        """Return one forward and backward pass of every image of every gradient, in each round."""
        del layers
        spent = float(self.gradients * self.images * self.rounds)
        return spent, spent

    def prune(self, given: Trained) -> Pruned:
        """Prune in rounds of equal shares, each with compensation."""
        weights = dict(given.weights)
        masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in given.params.items()}
        blank = given.evaluator.setup.blank
        for turn in range(1, self.rounds + 1):
            params = {name: weights[name] for name in given.names}
            found = fishers(self.slopes(given, weights, masks), params, **self._shape)
            density = 1 - (1 - given.method.density) * turn / self.rounds
            budget = given.budget if turn == self.rounds else given.method.budget(blank, density)
            scores = {n: self.score(w, found[n], masks[n]).masked_fill(~masks[n], -1.0) for n, w in params.items()}
            kept = given.method.pattern.keep(scores, budget)
            weights |= {n: self.settle(w, found[n], kept[n], masks[n]) for n, w in params.items()}
            masks = kept
        return {name: weights[name] for name in given.names}, masks

    @property
    def _shape(self) -> dict[str, Any]:
        return {"count": self.gradients, "block": self.block, "damp": self.damp}

    def slopes(
        self, given: Trained, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]
    ) -> Iterator[dict[str, Tensor]]:
        """Iterate over gradients of small batches, zero outside the masks, norms in evaluation mode."""
        module = given.evaluator.module(weights)
        network = dict(module.net.named_parameters())
        leaves = [network[name] for name in given.names]
        for images, labels in given.batches(self.gradients, self.images):
            with torch.enable_grad():
                loss = torch.nn.functional.cross_entropy(module(images).float(), labels)
                found = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
            yield {n: g.cpu() * masks[n] for n, g in zip(given.names, found, strict=True)}

    def score(self, weight: Tensor, fisher: BlockFisher, mask: Tensor) -> Tensor:
        """Return the scores of a weight."""
        raise NotImplementedError

    def settle(self, weight: Tensor, fisher: BlockFisher, kept: Tensor, before: Tensor) -> Tensor:
        """Return the weights after pruning to ``kept``."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class OBERT(SecondOrder):
    """Prune by the loss that each weight costs alone, and sum the compensations (Kurtic et al. 2022)."""

    def score(self, weight: Tensor, fisher: BlockFisher, mask: Tensor) -> Tensor:
        """Return ``w^2 / (2 [F^-1]_ii)``."""
        del mask
        return saliency(weight, fisher)

    def settle(self, weight: Tensor, fisher: BlockFisher, kept: Tensor, before: Tensor) -> Tensor:
        """Add up the moves that would make up for each removal alone."""
        return compensated(weight, fisher, kept | ~before, jointly=False).masked_fill(~kept, 0.0)


@dataclass(frozen=True, kw_only=True)
class CAP(SecondOrder):
    """Prune by the loss of removals in turn within each block, compensated together (Kuznedelev et al. 2023)."""

    def score(self, weight: Tensor, fisher: BlockFisher, mask: Tensor) -> Tensor:
        """Return the loss summed up to the removal of each weight."""
        return chained_saliency(weight, fisher, mask)

    def settle(self, weight: Tensor, fisher: BlockFisher, kept: Tensor, before: Tensor) -> Tensor:
        """Make the best move for all removals of a block."""
        del before
        return compensated(weight, fisher, kept)
