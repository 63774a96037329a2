"""Per-process state of a sparse model that is never saved: its back end and the networks run in this step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsebench.cost.passes import Passes
from sparsebench.execution.base import Backend, Live, Masks
from sparsebench.functional.score import Objective
from sparsebench.sparse.model import SparseModel


@dataclass(eq=False)
class Runtime:
    """How a sparse model runs in this process: ``SparseModel.runtime``, never saved.

    Attributes:
        backend: back end that computes the network.
        micro: number of micro-batches in this step so far.
        ran: live sets of the networks that a method last drew and ran.
    """

    backend: Backend
    micro: int = 0
    ran: tuple[Live, ...] = ()
    _known: Live | None = None
    _known_of: tuple[object, int] = (None, -1)

    def once(self, masks: Masks, version: int) -> Live:
        """Return the live sets of unit masks, computed once per version of a mapping."""
        return self._found(masks, version, lambda: {name: mask.cpu() for name, mask in masks.items()})

    def stored(self, net: SparseModel) -> Live:
        """Return the live sets of the model's own masks, computed once per change of the masks."""
        return self._found(net.masks, net.version, lambda: self.backend.unit_masks(net.masks))

    def _found(self, source: object, version: int, masks: Callable[[], Masks]) -> Live:
        if self._known is None or self._known_of[0] is not source or self._known_of[1] != version:
            self._known, self._known_of = self.backend.live(masks()), (source, version)
        return self._known

    # -- a method with stored zeros, run by a back end -----------------------------------------------------------------

    def loss(self, net: SparseModel, objective: Objective) -> Tensor:
        """Return the loss of the network under the model's own masks."""
        return self.backend.run(objective, self.stored(net))

    def passes(self, net: SparseModel, *, executed: bool = False) -> Passes:
        """Return the weights used in each pass of a step of this network: nominally, or as ``executed``."""
        shares = self.backend.shares(self.stored(net), executed=executed)
        return Passes((shares,), (shares,), (shares,))

    def view(self, net: SparseModel) -> dict[str, Tensor]:
        """Return the tensors with which the model runs at full size under its own masks."""
        return self.backend.view(self.stored(net))


@torch.no_grad()
def store(module: nn.Module, tensors: Masks) -> None:
    """Copy tensors into the parameters with the same names, ignoring names of buffers."""
    parameters = dict(module.named_parameters())
    for name, tensor in tensors.items():
        if name in parameters:
            parameters[name].copy_(tensor)


def module_of(net: SparseModel) -> nn.Module:
    """Return the network of a sparse model.

    Raises:
        ValueError: the model was built without its network.
    """
    if net.module is None:
        raise ValueError(
            "execution and drawn masks need the whole network, not its parameters alone: build the SparseModel with "
            "SparseModel.of(module)"
        )
    return net.module


def cpu(score: Tensor) -> Tensor:
    """Return the values on the CPU, where masks are drawn."""
    return score.detach().cpu()
