"""Growth from the topology alone: Cannistraci-Hebb training (Zhang et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sparsebench.functional.distribution import uniform
from sparsebench.methods.base import Clock, Distribution, Probe
from sparsebench.methods.dynamic import SET
from sparsebench.runs.messages import check_choice
from sparsebench.sparse.model import SparseModel


@dataclass(frozen=True, kw_only=True)
class CHT(SET):
    """Grow the connections that the network's local communities predict, without looking at gradients.

    A layer is a bipartite network of inputs and outputs; a convolution is read as (out, in * kernel height * kernel
    width). The score of a missing link depends on its paths of length three; links without such a path come last. Ties
    are broken at random. Source: Zhang et al. (ICLR 2024); formulas as in their successor paper (arXiv 2501.19107,
    appendix C). ``CHTs`` samples softly and removes idle neurons; correlated initialisation is not implemented.

    Args:
        rule: ``ch3_l3p``: a sum over paths, as in the paper; ``ch2_l3n``: a cheaper sum over nodes, as in its
            successor.
        early_stop: a layer keeps its links from then on once more than this share of the removed links grow back in the
            same update; None never stops a layer.
    """

    paper: ClassVar[str] = "cht"

    distribution: Distribution = uniform
    every: float = 0.01
    rule: Literal["ch3_l3p", "ch2_l3n"] = "ch3_l3p"
    early_stop: float | None = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("rule", self.rule, tuple(RULES))
        if self.early_stop is not None and not 0 < self.early_stop <= 1:
            raise ValueError(f"early_stop={self.early_stop:g} must be a share in (0, 1], or null")

    def start(self, net: SparseModel, probe: Probe) -> None:
        """Draw random masks; no layer has stopped."""
        super().start(net, probe)
        net.memory["stopped"] = {
            name: torch.zeros((), dtype=torch.bool, device=m.device) for name, m in net.masks.items()
        }

    def dropped(self, net: SparseModel, name: str, share: float) -> int:
        """Return how many weights a layer drops; none once it has stopped."""
        return 0 if bool(net.memory["stopped"][name]) else super().dropped(net, name, share)

    def grow(
        self, net: SparseModel, name: str, clock: Clock, gradients: Mapping[str, Tensor], kept: Tensor, size: int
    ) -> Tensor:
        """Return the mask of a layer, grown by the links that the remaining ones predict."""
        if bool(net.memory["stopped"][name]):
            return kept
        count = size - int(kept.sum())
        promise = self.promise(net, name, clock, kept, count)
        new = self.pattern.grow(kept, promise, count, avoid=self.avoided(net, name, kept))
        removed = net.masks[name] & ~kept
        if self.early_stop is not None:
            net.memory["stopped"][name] = (new & removed).sum() > self.early_stop * removed.sum()
        return new

    def promise(self, net: SparseModel, name: str, clock: Clock, kept: Tensor, count: int) -> Tensor:
        """Return the score of each missing link of a layer in which ``count`` links are to grow."""
        del count
        score = RULES[self.rule](kept.reshape(len(kept), -1)).reshape(kept.shape)
        # noise too small to change the order of the predicted links
        return score + 1e-9 * self.grow_score(net, name, clock, {}).double()


def link_prediction_by_paths(links: Tensor) -> Tensor:
    """Score each pair of an output and an input by CH3-L3, summed over its paths of length three.

    A path output u - input a - output b - input v adds ``1 / sqrt((1 + e_a) (1 + e_b))``: e counts the links of an
    intermediate node that lead neither to another intermediate node of the pair nor to its ends. Only scores of missing
    links are meaningful. The cost is ``outputs^2 inputs^2 density`` multiplications.

    Args:
        links: bool [outputs, inputs].

    Returns:
        float64, same shape.
    """
    if len(links) > links.shape[1]:  # the loop runs over the shorter side
        return link_prediction_by_paths(links.T).T
    present = links.double()
    through_inputs = _openness(present.T @ present, present.sum(dim=0))  # [a, v]
    through_outputs = _openness(present @ present.T, present.sum(dim=1))  # [b, u]
    scores = torch.zeros_like(present)
    for u, mine in enumerate(links):
        near = mine.nonzero().reshape(-1)
        others = present[:, near].any(dim=1)
        paths = present[others][:, near] @ through_inputs[near]
        scores[u] = (through_outputs[others, u, None] * present[others] * paths).sum(dim=0)
    return scores


def _openness(shared: Tensor, degree: Tensor) -> Tensor:
    """Return ``1 / sqrt(1 + e)`` of a node (row) for a pair whose other end is a column."""
    return (1 + (degree[:, None] - shared - 1).clamp(min=0)).rsqrt()  # one link leads to the near end of the pair


def link_prediction(links: Tensor) -> Tensor:
    """Score each pair of an output and an input by CH2-L3, summed over the nodes on paths of length three.

    A node z between output u and input v adds ``(1 + internal) / (1 + external)``, where internal counts its links to
    the other intermediate nodes of the pair, and external its links to nodes outside the pair's community. Only scores
    of missing links are meaningful.

    Args:
        links: bool [outputs, inputs].

    Returns:
        float64, same shape.
    """
    present = links.double()
    # an input z linked to u has as many internal links as there are outputs linked to both z and v
    through_inputs = present @ _weight(present.T @ present, present.sum(dim=0))
    through_outputs = _weight(present @ present.T, present.sum(dim=1)).T @ present
    return through_inputs + through_outputs


def _weight(shared: Tensor, degree: Tensor) -> Tensor:
    """Return the weight of node z (row) for a pair whose other end is a column; zero where no path passes z."""
    external = (degree[:, None] - shared - 1).clamp(min=0)  # one link leads to the near end of the pair
    return torch.where(shared > 0, (1 + shared) / (1 + external), 0.0)


RULES = {"ch3_l3p": link_prediction_by_paths, "ch2_l3n": link_prediction}
