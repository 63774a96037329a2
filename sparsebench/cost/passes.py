"""Which weights each pass of a training step needs, as a method reports it to the ledger."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Share = Literal["dense", "active"] | Mapping[str, float]
"""Weights that a pass needs: all, those in the masks, or a density per parameter name."""


@dataclass(frozen=True)
class Passes:
    """The passes of one training step of one sample; several entries mean several passes of that kind.

    Attributes:
        forward: shares of the forward passes.
        input: shares of the passes that compute input gradients.
        weight: shares of the passes that compute weight gradients.
    """

    forward: tuple[Share, ...] = ("active",)
    input: tuple[Share, ...] = ("active",)
    weight: tuple[Share, ...] = ("active",)


SPARSE = Passes()
SPARSE_DENSE_WEIGHT = Passes(weight=("dense",))
DENSE = Passes(("dense",), ("dense",), ("dense",))
