"""Training with fixed masks supplied from outside, as recipes of several fits need it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparsebench.methods.base import Masked, Probe
from sparsebench.sparse.model import SparseModel


@dataclass(frozen=True, kw_only=True)
class Given(Masked):
    """Keep the masks that a fit starts from, at any density.

    Density, distribution and pattern say what the recipe prunes to; the fit itself never asks for them.
    """

    paper: ClassVar[str] = "swamp"
    budget_holds: ClassVar[str] = "always"

    def promised(self, net: SparseModel) -> None:
        """Return None: the density depends on the given masks."""
        del net

    def start(self, net: SparseModel, probe: Probe) -> None:
        """Keep the given masks.

        Raises:
            ValueError: there are none.
        """
        del probe
        if not net.masks:
            raise ValueError(
                "method=given trains within masks that are handed over, and this fit has none: "
                "give masks_from=zeros or a file, choose recipe=imp, swamp, soup or prune_finetune, "
                "or a method that chooses its masks itself"
            )
