"""Patterns of units, which are active or zero as a whole: single weights, blocks or channels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsebench.functional import counts as single
from sparsebench.functional.counts import Budget, Shapes, whole_steps
from sparsebench.functional.select import grow_top_among, keep_top, keep_top_among, rank_across_layers

Densities = Mapping[str, float] | float


@dataclass(frozen=True)
class Pattern:
    """Define units of weights that are active or zero together; subclasses choose the units.

    Attributes:
        shifts: whether whole units may move from one layer to another.
        directed: whether the pattern distinguishes outputs, the first dimension, from inputs.
    """

    shifts: ClassVar[bool] = True
    directed: ClassVar[bool] = True

    @property
    def whole_outputs(self) -> bool:
        """True when units are whole output channels, which can be removed from a network."""
        return False

    # -- for subclasses -------------------------------------------------------------------------------------------

    def unit(self, shape: tuple[int, ...]) -> int:
        """Return the number of weights of a unit."""
        del shape
        return 1

    def step(self, shape: tuple[int, ...]) -> int:
        """Return the smallest number of weights by which a layer's budget can change."""
        return self.unit(shape)

    def units(self, values: Tensor) -> Tensor:
        """Sum values, or count the ones of a mask, over the members of each unit."""
        return values.detach()

    def spread(self, chosen: Tensor, like: Tensor) -> Tensor:
        """Expand a choice of units to a boolean mask over weights, with the shape and strides of ``like``."""
        if chosen.stride() == like.stride():
            return chosen
        return torch.empty_like(like, dtype=torch.bool, requires_grad=False).copy_(chosen.reshape(like.shape))

    def refuse(self, shapes: Shapes, density: Densities) -> None:
        """Raise ``ValueError`` for a density, per layer or overall, that the pattern cannot express.

        Raises:
            ValueError: the pattern cannot express the density; the message names the nearest one that works.
        """

    # -- counts -------------------------------------------------------------------------------------------------

    def budget(self, shapes: Shapes, densities: Densities) -> Budget:
        """Convert densities to numbers of weights, with the nearest total that the pattern can express.

        Raises:
            ValueError: a layer would keep no weight.
        """
        if isinstance(densities, Mapping):
            return whole_steps(shapes, densities, {name: self.step(shape) for name, shape in shapes.items()})
        shared = math.gcd(*(self.step(shape) for shape in shapes.values()))
        total = sum(math.prod(shape) for shape in shapes.values())
        return round(round(densities * total, 6) / shared) * shared

    # -- masks ----------------------------------------------------------------------------------------------------

    def keep(self, scores: Mapping[str, Tensor], kept: Budget) -> dict[str, Tensor]:
        """Return masks of the best units that use a budget; ties go to the smaller index.

        A global budget goes to the units with the largest score per weight; if units differ in size, less than one unit
        may be left over.
        """
        sums = {name: self.units(score) for name, score in scores.items()}
        sizes = {name: self.unit(tuple(score.shape)) for name, score in scores.items()}
        if isinstance(kept, int):
            chosen = rank_across_layers(sums, sizes, kept)
        else:
            chosen = {name: keep_top(value, kept[name] // sizes[name]) for name, value in sums.items()}
        return {name: self.spread(chosen[name], score) for name, score in scores.items()}

    def prune(self, mask: Tensor, score: Tensor, count: int, *, allow_regrow: bool = True) -> Tensor:
        """Keep the ``count`` best active weights, rounded up to whole units; ties go to the smaller index.

        Args:
            mask: bool; the active weights.
            score: same shape; read where the mask is on.
            count: weights to keep.
            allow_regrow: if False, keep enough weights that the currently inactive ones can replace all dropped ones.
        """
        del allow_regrow
        active = self.units(mask) > 0
        kept = math.ceil(count / self.unit(tuple(mask.shape)))
        return self.spread(keep_top_among(self.units(score), active, kept), mask)

    def keep_above(self, mask: Tensor, score: Tensor, least: float) -> Tensor:
        """Keep the active units whose mean score is at least ``least``."""
        unit = self.unit(tuple(mask.shape))
        return self.spread((self.units(mask) > 0) & (self.units(score) / unit >= least), mask)

    def grow(self, mask: Tensor, score: Tensor, count: int, *, avoid: Tensor | None = None) -> Tensor:
        """Activate the ``count`` best inactive weights, rounded down to whole units; ties as in ``prune``.

        Args:
            mask: bool; the active weights.
            score: same shape; read where the mask is off.
            count: weights to activate.
            avoid: bool; positions that grow only if no others are left.

        Raises:
            ValueError: ``count`` exceeds the number of inactive weights.
        """
        wanted = count // self.unit(tuple(mask.shape))
        spared = None if avoid is None else self.units(avoid) > 0
        return self.spread(grow_top_among(self.units(mask) > 0, self.units(score), wanted, spared), mask)

    def holds(self, mask: Tensor) -> bool:
        """Return True if a mask obeys the pattern."""
        ones = self.units(mask)
        return bool(((ones == 0) | (ones == self.unit(tuple(mask.shape)))).all())


@dataclass(frozen=True)
class Unstructured(Pattern):
    """Allow any single weight to be zero."""

    directed: ClassVar[bool] = False

    def budget(self, shapes: Shapes, densities: Densities) -> Budget:
        """Convert densities to exact counts: ``round(density * size)`` in total."""
        return single.budget(shapes, densities)

    def keep(self, scores: Mapping[str, Tensor], kept: Budget) -> dict[str, Tensor]:
        """Return masks of the largest scores that use a budget exactly."""
        return single.keep(scores, kept)

    def prune(self, mask: Tensor, score: Tensor, count: int, *, allow_regrow: bool = True) -> Tensor:
        """Keep the ``count`` best active weights; ties go to the smaller index."""
        del allow_regrow
        return self.spread(keep_top_among(score, mask, count), mask)

    def grow(self, mask: Tensor, score: Tensor, count: int, *, avoid: Tensor | None = None) -> Tensor:
        """Activate the ``count`` best inactive weights; ties go to the smaller index."""
        return self.spread(grow_top_among(mask, score, count, avoid), mask)


def sum_type(values: Tensor) -> torch.dtype:
    """Return the type for sums over a unit: whole numbers for masks, at least float32 for scores."""
    return torch.int64 if values.dtype == torch.bool else torch.promote_types(values.dtype, torch.float32)
