"""Run a network with a mask over single weights: at full size, multiplied by zeros."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from sparsebench.execution.stand_ins import Pieces, copied_statistics


class WeightNetwork:
    """A network whose weights are multiplied by masks, hard or soft.

    Args:
        module: the network; never changed.
        parameters: the weights that have masks.

    Attributes:
        units: name of a parameter -> its shape.
    """

    def __init__(self, module: nn.Module, parameters: Mapping[str, Tensor]) -> None:
        self.module, self.parameters = module, parameters
        self.units = {name: tuple(weight.shape) for name, weight in parameters.items()}

    def run(
        self,
        call: Callable[[Mapping[str, Tensor]], Any],
        masks: Mapping[str, Tensor],
        *,
        small: bool = False,
        statistics: bool = True,
    ) -> Any:
        """Call a function of weights in which the module runs with these masks.

        Args:
            call: calls the module with the given tensors in the place of its parameters and buffers.
            masks: shape of the weights.
            small: has no meaning here: the network stays at full size.
            statistics: whether the running statistics of the norms learn from this call.
        """
        del small
        tensors = self.masked(masks).tensors
        return call(tensors if statistics else tensors | copied_statistics(self.module))

    def masked(self, masks: Mapping[str, Tensor]) -> Pieces:
        """Multiply weights by masks."""
        return Pieces({name: weight * masks[name].to(weight) for name, weight in self.parameters.items()})

    def shares(self, masks: Mapping[str, Tensor], *, executed: bool = False) -> dict[str, float]:
        """Return the share of weights that stay, by parameter; every weight is multiplied by, where ``executed``."""
        return {name: 1.0 if executed else float(mask.double().mean()) for name, mask in masks.items()}

    def weight_masks(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the masks."""
        return {name: mask.to(self.parameters[name].device) for name, mask in masks.items()}
