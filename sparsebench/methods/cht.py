"""Growth from the topology alone: Cannistraci-Hebb training (Zhang et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsebench.methods.base import Clock
from sparsebench.methods.dynamic import SET
from sparsebench.sparse.model import SparseModel


@dataclass(frozen=True, kw_only=True)
class CHT(SET):
    """Grow the connections that the network's local communities predict, without looking at gradients.

    A layer is a bipartite network of inputs and outputs; a convolution is read as (out, in * kernel height * kernel
    width). The score of a missing link is the node-based CH2-L3 of its paths of length three; links that no path
    predicts come last, at random, and so are ties broken. Source: Zhang et al. (ICLR 2024); the formula as in
    their successor paper (arXiv 2501.19107, appendix C).
    Soft sampling, correlated initialisation and the removal of idle neurons are left out.
    """

    paper: ClassVar[str] = "cht"

    def grow(
        self, net: SparseModel, name: str, clock: Clock, gradients: Mapping[str, Tensor], kept: Tensor, size: int
    ) -> Tensor:
        """Return the mask of a layer, grown by the links that the remaining ones predict."""
        score = link_prediction(kept.reshape(len(kept), -1)).reshape(kept.shape)
        # a draw too small to change the order of what is predicted
        promise = score + 1e-9 * self.grow_score(net, name, clock, gradients).double()
        return self.pattern.grow(kept, promise, size - int(kept.sum()), avoid=self.avoided(net, name, kept))


def link_prediction(links: Tensor) -> Tensor:
    """Score each pair of an output and an input by CH2-L3, summed over the nodes on paths of length three.

    A node z between output u and input v adds ``(1 + internal) / (1 + external)``: its links to the other intermediate
    nodes of the pair, and its links to nodes outside of the pair's community. Meaningful where there is no link.

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
