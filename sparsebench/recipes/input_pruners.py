"""Prune a trained network by the inputs of its layers: Wanda and SparseGPT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsebench.analysis.inputs import input_moments
from sparsebench.functional.one_shot import keep_rows, sparsegpt, wanda
from sparsebench.methods.given import Given
from sparsebench.patterns import NofM, Unstructured
from sparsebench.recipes.pruners import Pruned, Pruner, Trained


@dataclass(frozen=True, kw_only=True)
class Calibrated(Pruner):
    """Base of pruners that measure the inputs of layers, one after the other.

    Args:
        images: of the training set.
        batch: images of a forward pass.
        sequential: each layer sees inputs that the pruned layers before it make; False measures all at once, before.
    """

    images: int = 512
    batch: int = 128
    sequential: bool = True

    def __post_init__(self) -> None:
        if self.images < 1 or self.batch < 1 or self.images % min(self.images, self.batch):
            raise ValueError(
                f"images={self.images}, batch={self.batch}: a whole number of batches is needed, such as 512 and 128"
            )

    def passes(self, layers: int) -> tuple[float, float]:
        """Return one forward pass of every image, for each layer where these are pruned in turn."""
        return float(self.images * (layers if self.sequential else 1)), 0.0

    def moments(self, given: Trained, weights: Mapping[str, Tensor], *names: str, diagonal: bool) -> dict[str, Tensor]:
        """Return the second moments of layers' inputs in a network with these weights."""
        size = min(self.batch, self.images)
        network = given.evaluator.module(weights).net
        images = (images for images, _ in given.batches(self.images // size, size))
        found = input_moments(network, names, images, diagonal=diagonal)
        return {name: value.cpu() for name, value in found.items()}

    def prune_layers(self, given: Trained, *, diagonal: bool) -> Pruned:
        """Prune layer after layer."""
        weights, masks = dict(given.weights), dict[str, Tensor]()
        known = {} if self.sequential else self.moments(given, weights, *given.names, diagonal=diagonal)
        for name in given.names:
            seen = known or self.moments(given, weights, name, diagonal=diagonal)
            weights[name], masks[name] = self.prune_layer(given, name, given.weights[name], seen[name])
        return {name: weights[name] for name in given.names}, masks

    def prune_layer(self, given: Trained, name: str, weight: Tensor, moments: Tensor) -> tuple[Tensor, Tensor]:
        """Return new weights of a layer, and their mask."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Wanda(Calibrated):
    """Keep the weights of largest magnitude times input norm within each row (Sun et al. 2024).

    Nothing is compensated. A budget over all layers ranks them together, and patterns rank within their groups.
    """

    def prune(self, given: Trained) -> Pruned:
        """Return the weights within masks of largest ``|w| ||x||``."""
        if isinstance(given.budget, Mapping):
            return self.prune_layers(given, diagonal=True)
        norms = self.moments(given, given.weights, *given.names, diagonal=True)
        masks = given.keep({name: self.scores(weight, norms[name]) for name, weight in given.params.items()})
        return {name: weight.masked_fill(~masks[name], 0.0) for name, weight in given.params.items()}, masks

    def scores(self, weight: Tensor, moments: Tensor) -> Tensor:
        """Return the scores of a layer, in the shape of its weight."""
        groups = weight.reshape(len(moments), -1, moments.shape[1])
        return wanda(groups.double(), moments.sqrt()[:, None]).reshape(weight.shape)

    def prune_layer(self, given: Trained, name: str, weight: Tensor, moments: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the best weights of each row, or of each group of the pattern."""
        scores, kept = self.scores(weight, moments), given.of_layer(name)
        assert kept is not None
        if isinstance(given.method.pattern, Unstructured):
            mask = keep_rows(scores.flatten(1), kept).reshape(weight.shape)
        else:
            mask = given.method.pattern.keep({name: scores}, {name: kept})[name]
        return weight.masked_fill(~mask, 0.0), mask


@dataclass(frozen=True, kw_only=True)
class SparseGPT(Calibrated):
    """Prune columns from left to right, the later ones making up for each error (Frantar & Alistarh 2023).

    Args:
        step: columns whose masks are chosen together; under N:M the M of a group are.
        damp: share of the Hessian's mean diagonal added to it.
    """

    needs_layers: ClassVar[bool] = True

    step: int = 128
    damp: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step < 1 or self.damp <= 0:
            raise ValueError(f"step={self.step}, damp={self.damp:g}: both must be above 0, such as 128 and 0.01")

    def check(self, method: Given) -> None:
        """Raise an error for patterns other than single weights and N:M along the inputs of linear layers."""
        pattern = method.pattern
        if not (isinstance(pattern, Unstructured) or (isinstance(pattern, NofM) and pattern.dim == 1)):
            raise ValueError(
                f"SparseGPT chooses single weights, or N of M inputs, and pattern {pattern} neither: "
                f"choose pattern=unstructured, or pattern=n_of_m with dim 1"
            )

    def prune(self, given: Trained) -> Pruned:
        """Return the compensated weights and their masks."""
        return self.prune_layers(given, diagonal=False)

    def prune_layer(self, given: Trained, name: str, weight: Tensor, moments: Tensor) -> tuple[Tensor, Tensor]:
        """Prune a layer, group after group of a grouped convolution."""
        kept, groups = given.of_layer(name), len(moments)
        assert kept is not None
        if kept == weight.numel():
            return weight, torch.ones_like(weight, dtype=torch.bool)
        rows = weight.flatten(1).tensor_split(groups)
        shares = [kept * (g + 1) // groups - kept * g // groups for g in range(groups)]
        parts = [
            self.prune_rows(given, weight, part, moments[g], share)
            for g, (part, share) in enumerate(zip(rows, shares, strict=True))
        ]
        new, masks = zip(*parts, strict=True)
        return torch.cat(new).reshape(weight.shape), torch.cat(masks).reshape(weight.shape)

    def prune_rows(
        self, given: Trained, weight: Tensor, rows: Tensor, moments: Tensor, kept: int
    ) -> tuple[Tensor, Tensor]:
        """Prune a matrix to an exact number of weights, spread evenly over the choices of columns."""
        pattern, total = given.method.pattern, rows.numel()
        if isinstance(pattern, NofM):
            return self.prune_groups(pattern, weight, rows, moments)
        spent, passed = 0, 0

        def choose(scores: Tensor, reached: Tensor) -> Tensor:
            nonlocal spent, passed
            passed += len(scores) * int(reached.sum())
            count = kept * passed // total - spent
            spent += count
            part = scores[:, reached]
            best = part.reshape(-1).argsort(descending=True, stable=True)[:count]
            chosen = torch.zeros(part.numel(), dtype=torch.bool).index_fill_(0, best, True)
            return torch.zeros_like(scores, dtype=torch.bool).masked_scatter_(reached, chosen.reshape(part.shape))

        return sparsegpt(rows, moments, choose, step=self.step, damp=self.damp)

    def prune_groups(self, pattern: NofM, weight: Tensor, rows: Tensor, moments: Tensor) -> tuple[Tensor, Tensor]:
        """Prune to N of every M inputs: a kernel position at a time, so that groups lie beside each other."""
        positions = weight[0, 0].numel()
        order = torch.arange(rows.shape[1]).reshape(-1, positions).T.reshape(-1)  # inputs of a position together

        def choose(scores: Tensor, reached: Tensor) -> Tensor:
            best = scores[:, reached].argsort(dim=1, descending=True, stable=True)[:, : pattern.n]
            part = torch.zeros_like(scores[:, reached], dtype=torch.bool).scatter_(1, best, True)
            return torch.zeros_like(scores, dtype=torch.bool).masked_scatter_(reached, part)

        new, mask = sparsegpt(rows[:, order], moments[order][:, order], choose, step=pattern.m, damp=self.damp)
        back = order.argsort()
        return new[:, back], mask[:, back]
