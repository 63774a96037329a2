"""Training with fixed masks supplied from outside, for recipes of several fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparsebench.methods.base import Masked, Probe
from sparsebench.sparse.model import SparseModel


@dataclass(frozen=True, kw_only=True)
class Given(Masked):
    """Keep the masks that a fit starts from, at any density.

    Density, distribution and pattern are the targets of the recipe's pruning; the fit itself does not use them.
    """

    paper: ClassVar[str] = "swamp"
    budget_holds: ClassVar[str] = "always"
    given_masks: ClassVar[bool] = True

    def promised(self, net: SparseModel) -> None:
        """Return None: the density depends on the given masks."""
        del net

    def start(self, net: SparseModel, probe: Probe) -> None:
        """Keep the given masks.

        Raises:
            ValueError: no masks are given.
        """
        del probe
        if not net.masks:
            raise ValueError(
                "method=given trains with masks from outside, and this fit has no masks: "
                "set masks_from=zeros or a file, choose recipe=imp, swamp, soup or prune_finetune, "
                "or a method that chooses its masks itself"
            )
