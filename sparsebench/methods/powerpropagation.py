"""Powerpropagation: weights as powers of trained parameters, so that large weights grow and small ones stay small."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsebench.methods.computed_weights import ComputedWeights
from sparsebench.sparse.model import SparseModel


@dataclass(frozen=True, kw_only=True)
class Powerpropagation(ComputedWeights):
    """Train t, and use the weights ``w = t |t|^(alpha - 1)`` in the network (Schwarz et al. 2021).

    The gradient of t is the gradient of w times ``alpha |t|^(alpha - 1)``: it is large for large weights and vanishes
    at zero. Weights therefore keep their sign, and small weights tend to stay small; trained networks lose little when
    these are pruned. With alpha = 1, training does not change.

    Args:
        alpha: the power; 1 changes nothing.
    """

    paper: ClassVar[str] = "powerpropagation"

    alpha: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.alpha >= 1:
            raise ValueError(f"alpha={self.alpha:g} is impossible: choose a power of at least 1, such as 2")

    def computed(self, net: SparseModel) -> Mapping[str, Tensor]:
        """Return the powers, with the signs of the parameters."""
        return {name: t.sign() * t.abs().pow(self.alpha) for name, t in net.params.items()}

    def encode(self, net: SparseModel) -> None:
        """Take the root of the initial weights, so that the network begins as usual."""
        for weight in net.params.values():
            weight.copy_(weight.sign() * weight.abs().pow(1 / self.alpha))
