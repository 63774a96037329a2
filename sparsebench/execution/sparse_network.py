"""Back ends that skip stored zeros: products over active weights, layer by layer."""

from __future__ import annotations

from torch import Tensor

from sparsebench.execution.base import Masks, Shares
from sparsebench.execution.direct.support import density_of
from sparsebench.execution.layers import Kernel, SparseLayers
from sparsebench.execution.stand_ins import copied_statistics
from sparsebench.execution.weight_network import WeightBackend
from sparsebench.functional.score import Objective
from sparsebench.sparse.model import SparseModel


class SparseNetwork(WeightBackend):
    """The network with CPU products over active weights only; numbers differ only by the order of sums.

    Args:
        net: parameters and module.
        kernel: ``direct``, ``csr`` or ``auto``; see ``SparseLayers``.

    Attributes:
        layers: the replacements of layers while the network runs.
    """

    def __init__(self, net: SparseModel, kernel: Kernel = "auto") -> None:
        super().__init__(net)
        self.layers = SparseLayers(self.module, net.params, kernel)

    def run(self, objective: Objective, masks: Masks, *, statistics: bool = True) -> Tensor:
        """Return the loss of the network with these masks; weights outside them must be zero."""
        with self.layers.installed(masks):
            return objective({} if statistics else copied_statistics(self.module))

    def shares(self, masks: Masks, *, executed: bool = False) -> Shares:
        """Return the share of active weights; 1 where ``executed`` is set and the layer ran densely."""
        chosen = self.chosen
        return {
            name: 1.0 if executed and chosen.get(name, "masked") == "masked" else density_of(mask)
            for name, mask in masks.items()
        }

    @property
    def chosen(self) -> dict[str, str]:
        """Back end of each masked layer in its last run, by name of the weight: ``direct``, ``csr`` or ``masked``."""
        return self.layers.chosen

    def __str__(self) -> str:
        """Name the network, and the number of layers for each way of running."""
        chosen = list(self.chosen.values())
        ways = ", ".join(f"{chosen.count(way)} {way}" for way in dict.fromkeys(chosen)) or "not run yet"
        return f"{type(self).__name__} of {type(self.module).__name__}: {len(self.units)} masks, {ways}"
