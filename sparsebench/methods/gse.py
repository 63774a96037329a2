"""Guided stochastic exploration: growth among a sampled set of candidates, so that no gradient is ever dense."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsebench.cost.passes import SPARSE, Passes
from sparsebench.functional.counts import Budget, keep, portion
from sparsebench.functional.distribution import er
from sparsebench.methods.base import Clock, Distribution
from sparsebench.methods.dynamic import RigL
from sparsebench.patterns import Unstructured
from sparsebench.runs.messages import check_choice
from sparsebench.sparse.model import SparseModel
from sparsebench.sparse.tensors import whole_numbers


@dataclass(frozen=True, kw_only=True)
class GSE(RigL):
    """Grow by gradient magnitude among candidates drawn at random, as many as weights are active (Heddes et al. 2024).

    Growth comes first: the inactive candidates with the largest gradient magnitudes grow. Then as many active weights
    are dropped, those with the smallest magnitudes. Weights that have just grown are not dropped, and dropped weights
    do not return in the same update. Candidates are pairs of an output and an input, both drawn uniformly and with
    replacement (the paper's uniform distribution); in a layer that is at most half sparse, all weights are candidates.

    Args:
        subset: number of candidates of a layer, as a multiple of its active weights.
        scope: ``global``: all layers are ranked together, and weights move between them; ``local``: each layer is
            ranked on its own.
    """

    paper: ClassVar[str] = "gse"

    distribution: Distribution = er
    every: float = 1000
    until: float = 0.6
    drop_fraction: float = 0.2
    replaces_step: bool = False
    exclude_dropped: bool = True
    subset: float = 1.0
    scope: Literal["global", "local"] = "global"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("scope", self.scope, ("global", "local"))
        if self.subset <= 0:
            raise ValueError(f"subset {self.subset:g} is impossible: choose a number above 0, such as 1")
        if not isinstance(self.pattern, Unstructured):
            raise ValueError(
                f"GSE draws single weights as candidates, and pattern {type(self.pattern).__name__} needs whole units: "
                f"choose pattern=unstructured, or method=rigl"
            )
        if not self.exclude_dropped or self.drop_count != "floor":
            raise ValueError(
                "GSE grows before it drops, so exclude_dropped=false has no meaning, and drop_count is floor: "
                "do not change either"
            )

    @property
    def moves_budget(self) -> bool:
        """Whether weights move from one layer to another."""
        return self.scope == "global"

    def passes(self, net: SparseModel, clock: Clock) -> Passes:
        """Return sparse passes; before an update, candidates receive a gradient in addition to the active weights."""
        if not self._collects(clock):
            return SPARSE
        moment = self._moment(clock)
        needed = {name: net.mask(name) | self.candidates(net, name, moment) for name in net.params}
        counts = whole_numbers({name: mask.count_nonzero() for name, mask in needed.items()})
        return Passes(weight=({name: count / net.params[name].numel() for name, count in counts.items()},))

    def _moment(self, clock: Clock) -> int:
        """Return the step of the update that the gradient of the step at ``clock`` is for."""
        first = clock.step if self.replaces_step else clock.step + 1
        return next(
            first + ahead for ahead in range(self.score_batches) if self._due(Clock(first + ahead, clock.total))
        )

    def candidates(self, net: SparseModel, name: str, moment: int) -> Tensor:
        """Return the positions of a layer that the update at step ``moment`` considers, as a bool mask."""
        weight, active = net.params[name], net.counts[name]
        if 2 * active >= weight.numel():
            return torch.ones_like(weight, dtype=torch.bool)
        draws, stream = portion(active, self.subset), net.generator("candidates", moment, name)
        outputs = torch.randint(len(weight), (draws,), generator=stream)
        inputs = torch.randint(weight.numel() // len(weight), (draws,), generator=stream)
        chosen = torch.zeros(len(weight), weight.numel() // len(weight), dtype=torch.bool)
        chosen[outputs, inputs] = True
        return chosen.reshape(weight.shape).to(weight.device)

    @torch.no_grad()
    def rewire(self, net: SparseModel, clock: Clock, optimizer: Optimizer | None) -> None:
        """Grow the best candidates, drop as many of the weakest active weights."""
        gradients = net.memory.pop("gradient")
        free = {name: self.candidates(net, name, clock.step) & ~mask for name, mask in net.masks.items()}
        open_places = whole_numbers({name: mask.count_nonzero() for name, mask in free.items()})
        promise = {
            name: self.grow_score(net, name, clock, gradients).masked_fill(~mask, -math.inf)
            for name, mask in free.items()
        }
        grown = keep(promise, self._grows(net, self.drops(clock) or 0.0, open_places))
        amounts = whole_numbers({name: mask.count_nonzero() for name, mask in grown.items()})
        stay = {name: net.counts[name] - amounts[name] for name in grown}
        strength = {n: net.params[n].abs().masked_fill(~mask, -math.inf) for n, mask in net.masks.items()}
        kept = keep(strength, sum(stay.values()) if self.scope == "global" else stay)
        net.set_masks({name: kept[name] | grown[name] for name in kept}, optimizer)

    def _grows(self, net: SparseModel, share: float, most: Mapping[str, int]) -> Budget:
        """Return how many weights grow, in total or in each layer, limited by the number of candidates."""
        if self.scope == "global":
            return min(portion(sum(net.counts[name] for name in most), share), sum(most.values()))
        return {name: min(portion(net.counts[name], share), most[name]) for name in most}
