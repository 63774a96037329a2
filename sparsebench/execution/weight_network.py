"""Back ends for masks over single weights at full size; zeros are stored in the weights or multiplied in."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sparsebench.execution.base import Backend, Masks, Shares
from sparsebench.execution.runtime import module_of
from sparsebench.execution.stand_ins import copied_statistics
from sparsebench.functional.score import Objective
from sparsebench.sparse.model import SparseModel


class WeightBackend(Backend):
    """Base class of back ends for masks over single weights, stored as zeros; subclasses define ``run``.

    A weight without a mask is dense.

    Args:
        net: parameters and module.

    Attributes:
        parameters: the weights that may have masks, by name.
    """

    stored_zeros: ClassVar[bool] = True

    def __init__(self, net: SparseModel) -> None:
        self.module, self.parameters, self.units = module_of(net), net.params, net.shapes

    def unit_masks(self, weight_masks: Masks) -> Masks:
        """Return the masks unchanged: units are weights."""
        return weight_masks

    def weight_masks(self, masks: Masks) -> dict[str, Tensor]:
        """Return the masks on the devices of the weights."""
        return {name: mask.to(self.parameters[name].device) for name, mask in masks.items()}

    def view(self, masks: Masks) -> dict[str, Tensor]:
        """Return an empty mapping: the zeros are stored in the weights."""
        del masks
        return {}

    def copied_statistics(self) -> dict[str, Tensor]:
        """Return copies of the statistics of all norms: an objective updates these, not the real ones."""
        return copied_statistics(self.module)

    def shares(self, masks: Masks, *, executed: bool = False) -> Shares:
        """Return the share of active weights, by parameter; 1 if ``executed`` and the network runs at full size."""
        if executed and self.full_size:
            return dict.fromkeys(masks, 1.0)
        return {name: float(mask.mean(dtype=torch.float64)) for name, mask in masks.items()}


class StoredZeros(WeightBackend):
    """The unchanged network with dense products: the reference for every back end of stored zeros.

    Weights outside the masks must be zero, which methods with stored zeros guarantee.
    """

    def run(self, objective: Objective, masks: Masks, *, statistics: bool = True) -> Tensor:
        """Return the loss of the unchanged network."""
        del masks
        return objective({} if statistics else self.copied_statistics())

    @property
    def full_size(self) -> bool:
        """True: every product is dense."""
        return True


class WeightNetwork(WeightBackend):
    """The network with its weights multiplied by hard or soft masks: zeros are computed, not stored."""

    stored_zeros = False

    def run(self, objective: Objective, masks: Masks, *, statistics: bool = True) -> Tensor:
        """Return the loss of the network whose weights are multiplied by these masks.

        Args:
            objective: weights -> loss.
            masks: masks in the shape of the weights; floats between 0 and 1 get a gradient.
            statistics: whether this call updates the running statistics of the norms.
        """
        weights = self.view(masks)
        return objective(weights if statistics else weights | self.copied_statistics())

    def view(self, masks: Masks) -> dict[str, Tensor]:
        """Return weights times masks, by parameter name."""
        return {name: weight * masks[name].to(weight) for name, weight in self.parameters.items()}

    @property
    def full_size(self) -> bool:
        """True: every product is dense."""
        return True
