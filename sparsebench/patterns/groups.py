"""Patterns that fix the number of weights per group: N of M, and a constant fan-in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsebench.functional.counts import Budget, Shapes
from sparsebench.functional.select import keep_top, reject_nan
from sparsebench.patterns.base import Densities, Pattern


@dataclass(frozen=True)
class Grouped(Pattern):
    """Keep the same number of weights in every group of a layer; an empty group (an ablated neuron) stays empty.

    Single weights move within their group; no weights move between layers.
    """

    shifts: ClassVar[bool] = False

    def step(self, shape: tuple[int, ...]) -> int:
        """Return the number of groups, since a budget changes by one weight in each group."""
        return math.prod(shape) // self.size(shape)

    def size(self, shape: tuple[int, ...]) -> int:
        """Return the number of weights of a group."""
        raise NotImplementedError

    def budget(self, shapes: Shapes, densities: Densities) -> Budget:
        """Convert densities to numbers of weights, equal for every group of a layer; layers do not compete."""
        each = densities if isinstance(densities, Mapping) else dict.fromkeys(shapes, densities)
        return super().budget(shapes, each)

    def keep(self, scores: Mapping[str, Tensor], kept: Budget) -> dict[str, Tensor]:
        """Return masks of the best weights of each group that use a budget exactly."""
        assert isinstance(kept, Mapping), "groups have budgets per layer"
        masks: dict[str, Tensor] = {}
        for name, score in scores.items():
            groups = self.units(score)
            chosen = ranks(groups, torch.ones_like(groups, dtype=torch.bool)) < kept[name] // len(groups)
            masks[name] = self.spread(chosen, score)
        return masks

    def prune(self, mask: Tensor, score: Tensor, count: int, *, allow_regrow: bool = True) -> Tensor:
        """Keep the ``count`` best active weights of the layer, in any group."""
        active, values = self.units(mask), self.units(score)
        fixed = torch.zeros_like(active)
        if not allow_regrow:  # without regrowth, a group loses at most as many weights as it has inactive ones
            room = (~active).sum(dim=1, keepdim=True)
            fixed = active & (ranks(values, active) < active.sum(dim=1, keepdim=True) - room)
        loose = (active & ~fixed).reshape(-1).nonzero().reshape(-1)
        kept = fixed.reshape(-1).clone()
        kept[loose[keep_top(values.reshape(-1)[loose], count - int(fixed.sum()))]] = True
        return self.spread(kept.reshape(active.shape), mask)

    def grow(self, mask: Tensor, score: Tensor, count: int, *, avoid: Tensor | None = None) -> Tensor:
        """Fill every group to the same number of weights, adding ``count`` weights in total.

        Raises:
            ValueError: the total is not a multiple of the number of groups, or a group already holds more than its
                part.
        """
        kept, values = self.units(mask), self.units(score)
        total, groups = int(kept.sum()) + count, len(kept)
        missing = total // groups - kept.sum(dim=1, keepdim=True)
        if total % groups or bool((missing < 0).any()):
            raise ValueError(
                f"{total} weights cannot be divided equally over {groups} groups that keep their active weights"
            )
        first = ~kept if avoid is None else ~kept & ~self.units(avoid)
        grown = first & (ranks(values, first) < missing)
        last = ~kept & ~first
        grown |= last & (ranks(values, last) < missing - grown.sum(dim=1, keepdim=True))
        return self.spread(kept | grown, mask)

    def holds(self, mask: Tensor) -> bool:
        """Return True if all groups have the same number of ones, or none."""
        ones = self.units(mask).sum(dim=1)
        return bool(((ones == 0) | (ones == ones.max())).all())


@dataclass(frozen=True)
class NofM(Grouped):
    """Keep ``n`` of every ``m`` consecutive weights along a dimension.

    Args:
        n: weights that stay in each group.
        m: size of a group.
        dim: dimension of the groups; 1 groups the input channels, separately for each kernel position, as hardware
            does.
    """

    n: int = 2
    m: int = 4
    dim: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.n <= self.m:
            raise ValueError(f"{self.n}:{self.m} is impossible: N of every M weights stay, 1 <= N <= M")

    def size(self, shape: tuple[int, ...]) -> int:
        """Return M, or the dimension's size if M does not divide it, which only dense layers allow."""
        return self.m if shape[self.dim] % self.m == 0 else shape[self.dim]

    def units(self, values: Tensor) -> Tensor:
        """Reshape values to [groups, m]."""
        return values.detach().movedim(self.dim, -1).reshape(-1, self.size(tuple(values.shape)))

    def spread(self, chosen: Tensor, like: Tensor) -> Tensor:
        """Reshape a choice from [groups, m] to the weight: the inverse of ``units``."""
        last = like.movedim(self.dim, -1).shape
        return super().spread(chosen.reshape(last).movedim(-1, self.dim), like)

    def budget(self, shapes: Shapes, densities: Densities) -> Budget:
        """Convert densities to N per group, more while a method is still pruning; dense layers have no groups."""
        each = densities if isinstance(densities, Mapping) else dict.fromkeys(shapes, densities)
        grouped = {name: shape for name, shape in shapes.items() if each[name] < 1}
        counts = super().budget(grouped, {name: each[name] for name in grouped})
        assert isinstance(counts, Mapping)
        return {name: counts[name] if name in counts else math.prod(shape) for name, shape in shapes.items()}

    def refuse(self, shapes: Shapes, density: Densities) -> None:
        """Raise ``ValueError`` for a sparsity other than 1 - N/M, and for dimensions that M does not divide."""
        each = density if isinstance(density, Mapping) else dict.fromkeys(shapes, density)
        sparse = {name: value for name, value in each.items() if value < 1}
        wrong = {name: value for name, value in sparse.items() if abs(value - self.n / self.m) > 1e-9}
        if wrong and len({round(value, 9) for value in sparse.values()}) > 1:
            name, value = next(iter(wrong.items()))
            raise ValueError(
                f"{self.n}:{self.m} keeps {self.n / self.m:.4g} of every layer, but the distribution gives {value:.4g} "
                f"of {name}: choose distribution=uniform sparsity={1 - self.n / self.m:.4g}"
            )
        if wrong:
            raise ValueError(self._other_ratio(next(iter(wrong.values()))))
        sizes = {name: shapes[name][self.dim] if self.dim < len(shapes[name]) else 1 for name in sparse}
        if misfits := {name: size for name, size in sizes.items() if size % self.m}:
            raise ValueError(self._misfit(misfits))

    def _misfit(self, sizes: Mapping[str, int]) -> str:
        """Name every layer that M does not divide, with one override that leaves them all dense."""
        (name, size), *others = sizes.items()
        rest = "".join(f", nor {other} ({size})" for other, size in others)
        common = math.gcd(*sizes.values())
        fits = [divisor for divisor in range(self.n + 1, common + 1) if common % divisor == 0]
        near = min(fits, key=lambda divisor: abs(divisor - self.m), default=None)
        it, layers = ("them", "these layers") if others else ("it", "the layer")
        return (
            f"{self.n}:{self.m} does not fit {name}, whose dimension {self.dim} has size {size}{rest}: "
            + (f"the nearest M that divides {it} is {near}; choose that, or " if near else "")
            + f"leave {layers} dense with prunable.exclude=[{','.join(sizes)}]"
        )

    def _other_ratio(self, density: float) -> str:
        asked = f"{self.n}:{self.m} has sparsity {1 - self.n / self.m:.4g}, but {1 - density:.4g} is requested"
        same = f"choose sparsity={1 - self.n / self.m:.4g}"
        group = round(self.n / density)
        if abs(self.n / group - density) > 1e-9:
            return f"{asked}: {same}"
        ratios = f"pattern.n={self.n} pattern.m={group} ({self.n}:{group})"
        shared = math.gcd(self.n, group)
        if shared > 1:
            ratios += f" or pattern.n={self.n // shared} pattern.m={group // shared}"
        return f"{asked}: {same}, or {ratios}"

    def holds(self, mask: Tensor) -> bool:
        """Return True if exactly N of every M entries are ones, or if all are, as in a dense layer."""
        return bool(mask.all()) or bool((self.units(mask).sum(dim=1) == self.n).all())


@dataclass(frozen=True)
class FanIn(Grouped):
    """Give every output (neuron, filter) the same number of incoming weights (Lasby et al. 2024, section 3)."""

    def size(self, shape: tuple[int, ...]) -> int:
        """Return the number of possible inputs of an output."""
        return math.prod(shape[1:])

    def units(self, values: Tensor) -> Tensor:
        """Reshape values to [outputs, inputs]."""
        return values.detach().reshape(values.shape[0], -1)


def ranks(values: Tensor, among: Tensor) -> Tensor:
    """Rank the marked entries of each row: 0 for the largest, ties by index; other entries are undefined.

    Args:
        values: [rows, columns].
        among: bool, same shape.

    Raises:
        ValueError: a value is NaN.
    """
    reject_nan(values)
    order = values.sort(dim=1, descending=True, stable=True).indices
    place = among.gather(1, order).cumsum(dim=1) - 1
    return torch.empty_like(place).scatter_(1, order, place)
