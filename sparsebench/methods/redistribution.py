"""Dynamic sparse training that also moves connections between layers at a constant total: SNFS, and the base of DSR."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsebench.cost.passes import SPARSE_DENSE_WEIGHT, Passes
from sparsebench.functional.allotment import allot
from sparsebench.functional.distribution import uniform
from sparsebench.methods.base import Clock, Distribution, Probe
from sparsebench.methods.dynamic import SET
from sparsebench.sparse.model import SparseModel
from sparsebench.sparse.tensors import whole_numbers


@dataclass(frozen=True, kw_only=True)
class Redistributed(SET):
    """Grow as many weights overall as were dropped; subclasses define the share of each layer.

    Args:
        redistribute: False keeps the number of weights of each layer.
    """

    budget_holds: ClassVar[str] = "always"
    fill: ClassVar[float] = 1.0
    """Largest share of a layer's free places that one update fills."""
    up: ClassVar[bool] = False
    """Whether a layer's share of the growth is rounded up, so that every layer with a share gets a weight."""

    redistribute: bool = True

    @property
    def moves_budget(self) -> bool:
        """Whether weights move from one layer to another."""
        return self.redistribute

    def start(self, net: SparseModel, probe: Probe) -> None:
        """Draw random masks.

        Raises:
            ValueError: the pattern ties every layer to its number of weights.
        """
        if self.redistribute and not self.pattern.shifts:
            raise ValueError(
                f"{type(self).__name__} moves weights between layers, but {type(self.pattern).__name__} fixes their "
                f"number in each: choose pattern=unstructured, blocks or channels, or method.redistribute=false"
            )
        super().start(net, probe)

    def deserved(self, net: SparseModel, kept: Mapping[str, int]) -> Mapping[str, float]:
        """Return each layer's share of the grown weights, on any scale."""
        raise NotImplementedError

    def sizes(self, net: SparseModel, clock: Clock, kept: Mapping[str, Tensor]) -> Mapping[str, int]:
        """Return the active weights of each layer after growth: the kept ones plus its share of the dropped ones."""
        del clock
        if not self.redistribute:
            return net.counts
        stay = whole_numbers({name: mask.count_nonzero() for name, mask in kept.items()})
        free = {name: mask.numel() - stay[name] for name, mask in kept.items()}
        budget = self.budget(net)
        total = budget if isinstance(budget, int) else sum(budget.values())
        units = {name: self.pattern.unit(net.shapes[name]) for name in kept}
        what = total - sum(stay.values())
        grown = allot(what, self.deserved(net, stay), free, fill=self.fill, units=units, up=self.up)
        return {name: stay[name] + grown[name] for name in kept}


@dataclass(frozen=True, kw_only=True)
class SNFS(Redistributed):
    """Sparse momentum: redistribute and grow by an average of dense gradients (Dettmers & Zettlemoyer 2019).

    Layers receive weights in proportion to the mean magnitude of the momentum over their active weights (over all
    places if no weight is active), rounded up, at most 99 % of the free places; the rest is spread evenly. Weights with
    the largest momentum grow. A layer that is less than 20 % sparse and deserves more than the average drops at most
    the share of its zeros.

    Args:
        momentum: factor of the exponential average of the dense gradients. The method keeps this average itself, since
            the optimizer's momentum is zero where weights are zero.
        redistribute: False is the SNFS of Evci et al. 2020.
        average_decay: whether the optimizer's weight decay of active weights is averaged along with the gradients, as
            in the published code, which uses the optimizer's momentum as the average.
        keep_velocity: whether a grown weight starts with the velocity that it would have in a dense optimizer, as in
            the published code; False starts it at rest. Needs SGD with momentum.
    """

    paper: ClassVar[str] = "snfs"
    fill: ClassVar[float] = 0.99
    up: ClassVar[bool] = True

    distribution: Distribution = uniform
    momentum: float = 0.9
    average_decay: bool = False
    keep_velocity: bool = False
    every: float = 0.01
    until: float = 1.0
    drop_fraction: float = 0.5
    drop_fraction_end: float = 0.005
    drop_count: Literal["floor", "ceil"] = "ceil"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum {self.momentum:g} is impossible: choose a factor in [0, 1)")

    def start(self, net: SparseModel, probe: Probe) -> None:
        """Draw random masks, and initialise the average with zero."""
        super().start(net, probe)
        net.memory["momentum"] = {name: torch.zeros_like(p, requires_grad=False) for name, p in net.params.items()}

    def before_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Average the dense gradient, with weight decay if enabled, then mask it."""
        decays = _options(optimizer, "weight_decay") if self.average_decay else {}
        for name, gradient in net.gradients().items():
            average, weight = net.memory["momentum"][name], net.params[name]
            average.mul_(self.momentum).add_(gradient, alpha=1 - self.momentum)
            if decays.get(id(weight)):
                average.add_(weight.detach(), alpha=(1 - self.momentum) * decays[id(weight)])
        super().before_step(net, clock, optimizer)

    @torch.no_grad()
    def rewire(self, net: SparseModel, clock: Clock, optimizer: Optimizer | None) -> None:
        """Move connections; restore the velocity of new ones if enabled."""
        before = dict(net.masks)
        super().rewire(net, clock, optimizer)
        if not self.keep_velocity or optimizer is None:
            return
        for name, mask in net.masks.items():
            velocity = optimizer.state[net.params[name]].get("momentum_buffer")
            if not isinstance(velocity, Tensor):
                raise ValueError(
                    f"keep_velocity needs the velocity of SGD with momentum, and {type(optimizer).__name__} has no "
                    f"velocity: "
                    f"choose sgd with momentum, or keep_velocity=false"
                )
            # the optimizer keeps a sum of gradients, this method a mean
            dense = net.memory["momentum"][name] / (1 - self.momentum)
            velocity.copy_(torch.where(mask & ~before[name], dense.to(velocity), velocity))

    def passes(self, net: SparseModel, clock: Clock) -> Passes:
        """Return sparse passes with a dense weight gradient in every step."""
        del net, clock
        return SPARSE_DENSE_WEIGHT

    def dropped(self, net: SparseModel, name: str, share: float) -> int:
        """Return the number of weights a layer drops; a nearly dense layer with a larger share keeps most of them."""
        sparsity = 1 - net.densities[name]
        if self.redistribute and sparsity < 0.2:
            deserved = self.deserved(net, net.counts)
            if deserved[name] > sum(deserved.values()) / len(deserved):
                share = min(share, sparsity)
        return super().dropped(net, name, share)

    def deserved(self, net: SparseModel, kept: Mapping[str, int]) -> Mapping[str, float]:
        """Return the mean magnitude of the momentum over the active weights, before dropping.

        A layer without active weights uses the mean over all its places; otherwise it would stay empty.
        """
        del kept
        means: dict[str, Tensor] = {}
        for name, mask in net.masks.items():
            size = net.memory["momentum"][name].abs().double()
            means[name] = size[mask].mean() if net.counts[name] else size.mean()
        return _numbers(means)

    def grow_score(self, net: SparseModel, name: str, clock: Clock, gradients: Mapping[str, Tensor]) -> Tensor:
        """Return the magnitude of the momentum."""
        return net.memory["momentum"][name].abs()


def _options(optimizer: Optimizer, key: str) -> dict[int, float]:
    """Return an option of each parameter, by its id."""
    groups: list[dict[str, Any]] = optimizer.param_groups
    return {id(p): float(group.get(key, 0.0)) for group in groups for p in group["params"]}


def _numbers(scalars: Mapping[str, Tensor]) -> dict[str, float]:
    """Read scalars from the device in a single transfer."""
    values = cast(list[float], torch.stack(list(scalars.values())).tolist())  # pyright: ignore[reportUnknownMemberType]
    return dict(zip(scalars, values, strict=True))
