"""SynFlow: pruning at initialisation in many rounds, without data (Tanaka et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsebench.functional import score
from sparsebench.functional.counts import Budget, portion
from sparsebench.functional.schedule import exponential
from sparsebench.methods.at_init import PrunedAtStart, protect
from sparsebench.methods.base import Probe
from sparsebench.methods.probe import at_least_one
from sparsebench.sparse.model import SparseModel


@dataclass(frozen=True, kw_only=True)
class SynFlow(PrunedAtStart):
    """Preserve the flow through a network of positive weights, without data (Tanaka et al. 2020, algorithm 1).

    R is the sum of outputs for an input of ones, with all weights replaced by their magnitude; the score of a weight is
    |w dR/dw|. Round i of ``rounds`` scores the weights that the previous round kept, and keeps a share of
    ``density^(i / rounds)`` of all weights: pruning in one round would remove whole layers. Masks are nested. Scores
    are in float64, since R exceeds float32 in deep networks.

    Args:
        rounds: number of times that the weights are scored.
    """

    paper: ClassVar[str] = "synflow"

    rounds: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one("rounds", self.rounds)

    def choose(self, net: SparseModel, probe: Probe) -> dict[str, Tensor]:
        """Prune in rounds, scoring the remaining weights each time."""
        final, sizes = self.budget(net), {name: p.numel() for name, p in net.params.items()}
        weights = {name: p.detach().abs().double() for name, p in net.params.items()}
        masks: dict[str, Tensor] = {}
        for turn in range(1, self.rounds + 1):
            scores = score.synflow(probe.output, weights)
            # Rank pruned weights below all others: where no signal flows, they must not return on a tie at 0.
            scores = {name: s.masked_fill(~masks[name], -1.0) if masks else s for name, s in scores.items()}
            kept = self.pattern.budget(net.shapes, anneal(final, sizes, self.density, turn / self.rounds))
            masks = self.pattern.keep(protect(scores, self.floor, kept), kept)
            weights = {name: w * masks[name] for name, w in weights.items()}
        return masks


def anneal(final: Budget, sizes: Mapping[str, int], density: float, progress: float) -> dict[str, float] | float:
    """Return exponentially falling densities from all weights to ``final``, which is ``density`` of them.

    Each density is a whole count divided by the size, rounded up as in the published code; the last is exactly
    ``final``.
    """
    if isinstance(final, int):
        total = sum(sizes.values())
        return density if progress >= 1 else portion(total, exponential(1.0, density, progress), up=True) / total
    shares = {name: exponential(1.0, kept / sizes[name], progress) for name, kept in final.items()}
    counts = {name: portion(sizes[name], share, up=True) for name, share in shares.items()}
    return {name: count / sizes[name] for name, count in counts.items()}
