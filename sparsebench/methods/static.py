"""Dense training, and training with masks chosen once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparsebench.methods.base import Masked, Method, Probe
from sparsebench.methods.draws import draw_scores as draw_scores
from sparsebench.sparse.model import SparseModel


@dataclass(frozen=True, kw_only=True)
class Dense(Method):
    """Train every weight: the reference for every comparison."""

    budget_holds: ClassVar[str] = "always"


@dataclass(frozen=True, kw_only=True)
class Static(Masked):
    """Draw random masks before training and keep them.

    The per-layer counts come from the distribution, exactly; the positions are uniform. Source: the ``Static``
    baseline of Evci et al. 2020 (arXiv 1911.11134).
    """

    paper: ClassVar[str] = "rigl"
    budget_holds: ClassVar[str] = "always"

    def start(self, net: SparseModel, probe: Probe) -> None:
        """Draw masks with exactly the budget of each layer."""
        del probe
        net.set_masks(self.pattern.keep(draw_scores(net, "start"), self.budget(net)))
