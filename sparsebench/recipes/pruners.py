"""Trained networks that are to be pruned at once, and the simplest way: by magnitude."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsebench.data.loader import TrainLoader
from sparsebench.functional.counts import Budget
from sparsebench.methods.given import Given
from sparsebench.recipes.cycle import Evaluator

Pruned = tuple[dict[str, Tensor], dict[str, Tensor]]
"""New weights and masks, by name of weight."""


@dataclass(frozen=True)
class Trained:
    """A trained network, its training images, and the budget to prune it to.

    Attributes:
        evaluator: runs the network.
        weights: its state dict.
        names: of the weights that may be sparse, in the order of the network.
        method: density, distribution and pattern.
        budget: weights that stay, by layer or over all.
    """

    evaluator: Evaluator
    weights: Mapping[str, Tensor]
    names: tuple[str, ...]
    method: Given
    budget: Budget

    @property
    def params(self) -> dict[str, Tensor]:
        """The weights that may be sparse."""
        return {name: self.weights[name] for name in self.names}

    def keep(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return masks of the largest scores that use the budget."""
        return self.method.pattern.keep(dict(scores), self.budget)

    def of_layer(self, name: str) -> int | None:
        """Return the number of weights that a layer keeps, or None where layers share a budget."""
        return self.budget[name] if isinstance(self.budget, Mapping) else None

    def batches(self, number: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over training batches without augmentation, epoch after epoch."""
        evaluator = self.evaluator
        assert evaluator.training is not None
        if len(evaluator.training) < size:
            raise ValueError(
                f"{size} images are needed at once, the training data hold {len(evaluator.training)}: ask fewer"
            )
        settings = {"order_seed": evaluator.setup.seed, "augment": False, "device": evaluator.device}
        loader = TrainLoader(evaluator.training, batch_size=size, **settings)
        return itertools.islice(itertools.chain.from_iterable(itertools.repeat(loader)), number)


@dataclass(frozen=True, kw_only=True)
class Pruner:
    """Keep the largest magnitudes; the base of pruners that use data.

    Attributes:
        needs_layers: True if every layer needs a budget of its own.
    """

    needs_layers: ClassVar[bool] = False

    def passes(self, layers: int) -> tuple[float, float]:
        """Return how many forward and backward passes of one image it spends on a network of as many layers."""
        del layers
        return 0.0, 0.0

    def check(self, method: Given) -> None:
        """Raise an error for patterns that it cannot serve."""

    def prune(self, given: Trained) -> Pruned:
        """Return new weights and masks."""
        masks = given.keep({name: weight.abs() for name, weight in given.params.items()})
        return {name: weight.masked_fill(~masks[name], 0.0) for name, weight in given.params.items()}, masks
