"""ProbMask: learn which weights to keep through relaxed masks (Zhou et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsebench.cost.passes import DENSE, SPARSE, Passes
from sparsebench.execution.base import Masks
from sparsebench.methods.base import Clock, Objective
from sparsebench.methods.sampled_masks import DrawnMasks
from sparsebench.sparse.model import SparseModel


@dataclass(frozen=True, kw_only=True)
class ProbMask(DrawnMasks):
    """Learn which weights to keep by backpropagation through relaxed masks (Zhou et al. 2021).

    A relaxed mask is ``sigmoid(T (logit s + logistic noise))``. T, an inverse temperature, rises from 1 to
    ``1 / sharpest`` over training, so that masks harden. Every pass is dense.

    Args:
        samples: number of draws whose losses are averaged in a step.
        sharpest: temperature at the end.
    """

    paper: ClassVar[str] = "probmask"
    budget_holds: ClassVar[str] = "end"
    exceptions: ClassVar[Mapping[str, str]] = {
        **DrawnMasks.exceptions,
        "budget": "a weight of probability 0 is never kept: fewer weights stay if the scores have fallen below the "
        "budget",
    }

    score_lr: float = 0.006
    schedule: str = "cubic"
    fix_at: float | None = 0.9375
    samples: int = 2
    sharpest: float = 0.03

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 1 or not 0 < self.sharpest <= 1 or self.final_mask == "best_of_n":
            raise ValueError(
                f"samples={self.samples}, sharpest={self.sharpest:g}, final_mask={self.final_mask}: "
                f"samples >= 1, sharpest in (0, 1] and any final_mask but best_of_n are needed"
            )

    def promised(self, net: SparseModel) -> int:
        """Return K, the number of weights of the final mask."""
        return self.count(net.learned)

    def loss(self, net: SparseModel, objective: Objective) -> Tensor:
        """Return the mean loss over draws of relaxed masks."""
        network = self.network(net)
        if self.fixed(net):
            return network.run(objective, net.memory["kept"])
        path = self.next_draw(net)
        losses = [network.run(objective, self.relaxed(net, *path, index)) for index in range(self.samples)]
        return torch.stack(losses).mean()

    def relaxed(self, net: SparseModel, *path: int | str) -> Masks:
        """Draw relaxed masks, differentiable with respect to the scores."""
        progress = float(net.memory["time"]["progress"]) if "time" in net.memory else 0.0
        inverse = 1.0 / ((1.0 - self.sharpest) * (1.0 - progress) + self.sharpest)
        masks: Masks = {}
        for name, score in net.learned.items():
            uniform = torch.rand(score.shape, generator=net.generator("noise", *path, name)).clamp(1e-6, 1 - 1e-6)
            noise = torch.logit(uniform).to(score.device)
            masks[name] = torch.sigmoid(inverse * (_log_odds(score) + noise))
        return masks

    def passes(self, net: SparseModel, clock: Clock) -> Passes:
        """Every pass of every sample is dense, until the masks are fixed."""
        if self.fixed(net):
            return SPARSE
        return Passes(DENSE.forward * self.samples, DENSE.input * self.samples, DENSE.weight * self.samples)


def _log_odds(score: Tensor, eps: float = 1e-20) -> Tensor:
    """Return ln(s / (1 - s)), finite at 0 and 1.

    At s = 1 the result is so large that its sigmoid is 1 under any noise, with slope 0: such a weight stays until the
    budget falls.
    """
    return torch.log(score + eps) - torch.log(1.0 - score + eps)
