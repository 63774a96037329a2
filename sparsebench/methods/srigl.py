"""SRigL: RigL with a constant fan-in and ablation of neurons (Lasby et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsebench.functional.counts import portion
from sparsebench.functional.select import keep_top
from sparsebench.methods.base import Clock, Probe
from sparsebench.methods.dynamic import RigL
from sparsebench.patterns import Pattern
from sparsebench.patterns.groups import FanIn, ranks
from sparsebench.sparse.model import SparseModel

FAN_IN = FanIn()


@dataclass(frozen=True, kw_only=True)
class SRigL(RigL):
    """Drop by magnitude over the layer, grow by gradient within each neuron, to the same fan-in for all of them.

    A weight is salient when it survives the drop, or when its gradient is among the k largest, where k is the number of
    drops. A neuron with fewer salient weights than ``gamma`` times the initial fan-in is ablated; its weights count
    among the drops, and the fan-in of the other neurons rises to spend the layer's budget. A neuron returns once it has
    enough salient weights again.

    Args:
        gamma: smallest number of salient weights of a neuron relative to the initial fan-in, and at least one weight; 0
            ablates no neuron. Published: 0.3 for convolutional networks, 0.95 for vision transformers.
        ablate_last: whether outputs of the last layer (the classes) may be ablated.
    """

    paper: ClassVar[str] = "srigl"
    exceptions: ClassVar[Mapping[str, str]] = {
        "budget": "a constant fan-in is a whole number: less than one weight per active neuron is left over"
    }

    pattern: Pattern = FAN_IN
    replaces_step: bool = False
    gamma: float = 0.3
    ablate_last: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.pattern, FanIn):
            raise ValueError(
                f"SRigL is RigL with a constant fan-in, not {self.pattern}: choose rigl for other patterns"
            )
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma {self.gamma:g} is impossible: choose a share of the fan-in in [0, 1]")

    def start(self, net: SparseModel, probe: Probe) -> None:
        """Draw random masks of constant fan-in; every neuron is active."""
        super().start(net, probe)
        net.memory["alive"] = {n: torch.ones(len(m), dtype=torch.bool, device=m.device) for n, m in net.masks.items()}

    def drop(self, net: SparseModel, clock: Clock, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the strongest weights of the remaining neurons, none with more than the new fan-in."""
        kept = super().drop(net, clock, gradients)
        for name, mask in kept.items():
            budget = self._spent(net, name)
            alive = self._alive(net, name, mask, gradients[name].abs(), budget)
            fan_in = budget // int(alive.sum())
            strength = self.drop_score(net, name, gradients)
            # drops are counted after ablation and include the weights of ablated neurons
            left = self.pattern.spread(self.pattern.units(net.masks[name]) & alive[:, None], mask)
            rows = self.pattern.units(self.pattern.prune(left, strength, min(int(mask.sum()), int(left.sum()))))
            strongest = ranks(self.pattern.units(strength), rows) < fan_in
            kept[name] = self.pattern.spread(rows & strongest, mask)
            net.memory["alive"][name] = alive
        return kept

    def sizes(self, net: SparseModel, clock: Clock, kept: Mapping[str, Tensor]) -> Mapping[str, int]:
        """Return the number of active neurons times the largest fan-in within the budget."""
        neurons = {name: int(net.memory["alive"][name].sum()) for name in kept}
        return {name: self._spent(net, name) // neurons[name] * neurons[name] for name in kept}

    def grow(
        self, net: SparseModel, name: str, clock: Clock, gradients: Mapping[str, Tensor], kept: Tensor, size: int
    ) -> Tensor:
        """Return the mask of a layer with every active neuron filled to the fan-in."""
        alive, promise = net.memory["alive"][name], self.grow_score(net, name, clock, gradients)
        avoid = self.avoided(net, name, kept)
        mask = torch.zeros_like(kept)
        rows = None if avoid is None else avoid[alive]
        mask[alive] = self.pattern.grow(kept[alive], promise[alive], size - int(kept.sum()), avoid=rows)
        return mask

    def _spent(self, net: SparseModel, name: str) -> int:
        budget = self.budget(net)
        assert isinstance(budget, Mapping)
        return budget[name]

    def _alive(self, net: SparseModel, name: str, kept: Tensor, slope: Tensor, budget: int) -> Tensor:
        """Return the neurons with enough salient weights, at least as many as needed for the budget."""
        rows = self.pattern.units(kept)
        if self.gamma == 0 or (name == list(net.params)[-1] and not self.ablate_last):
            return torch.ones_like(net.memory["alive"][name])
        rest = (~rows).reshape(-1).nonzero().reshape(-1)
        salient = rows.reshape(-1).clone()
        count = min(net.counts[name] - int(rows.sum()), len(rest))
        salient[rest[keep_top(slope.reshape(-1)[rest], count)]] = True
        enough = salient.reshape(rows.shape).sum(dim=1)
        # Relative to the fan-in before any ablation: otherwise the bar would rise with the fan-in and ablate ever more
        # neurons.
        bar = max(1, portion(budget // len(rows), self.gamma))
        least = -(-budget // rows.shape[1])
        return keep_top(enough, max(least, int((enough >= bar).sum())))
