"""The interface of execution: how a network with masks is computed, independent of the method that chose the masks.

A back end gets an objective (weights -> loss) and masks, and returns the loss, computed in its own way: at full size
with zeros, as the small network of live channels, or by sparse products. Parameters, their gradients, optimizer state
and checkpoints remain plain and full-size, so that back ends may be exchanged between two runs of one program.

``docs/howto/back_end.md`` shows how to write one.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from sparsebench.functional.score import Objective

Masks = Mapping[str, Tensor]
"""Name of a unit -> mask: bool, on the CPU where units are channels, on the weight's device where they are weights."""

Shares = dict[str, float]
"""Name of a parameter -> share of its weights that a pass multiplies by, in [0, 1]."""


class Live(Mapping[str, Tensor]):
    """Masks, with a cache for results that a back end derives from them and needs several times in a step.

    It is itself a mapping of masks, so it can be passed in place of masks. Masks must not be changed in place
    afterwards.

    Args:
        masks: masks by unit.

    Attributes:
        found: derived results, filled in by a back end.
    """

    def __init__(self, masks: Masks) -> None:
        self.masks = dict(masks)
        self.found: dict[str, Any] = {}

    def __getitem__(self, unit: str) -> Tensor:
        return self.masks[unit]

    def __iter__(self) -> Iterator[str]:
        return iter(self.masks)

    def __len__(self) -> int:
        return len(self.masks)


class Backend(ABC):
    """Base class of the ways to compute a network with masks, as used by engine, methods and ledger.

    Masks may be plain or the result of ``live``, which avoids deriving anything twice. A back end for masks over single
    weights subclasses ``WeightBackend`` and defines ``run`` only.

    Attributes:
        module: the network. Its parameters are never replaced.
        units: name of a mask -> its shape, or its number of channels.
        stored_zeros: True when the module itself, with zeros stored in its weights, is the same network. The method's
            statement of its cost then holds, and the module itself runs steps that need gradients of inactive weights.
        full_size: True when every product is dense, so that nothing is saved.
    """

    module: nn.Module
    units: Mapping[str, Any]
    stored_zeros: ClassVar[bool] = False

    @property
    def chosen(self) -> dict[str, str]:
        """How each weight's layer last ran, by parameter name; empty if all layers run the same way."""
        return {}

    @property
    def full_size(self) -> bool:  # noqa: D102  (an attribute of the class docstring)
        return False

    @abstractmethod
    def run(self, objective: Objective, masks: Masks, *, statistics: bool = True) -> Tensor:
        """Return the loss of the network with these masks.

        Args:
            objective: weights -> loss. It calls ``module`` with the given tensors in place of the parameters and
                buffers of those names; an empty mapping replaces nothing.
            masks: masks by unit.
            statistics: whether this call updates the running statistics of the norms.

        Returns:
            A scalar whose gradient reaches the parameters themselves, in their own shape.
        """

    def live(self, masks: Masks) -> Live:
        """Return the masks with the results that this back end derives from them, for use in all later calls."""
        return masks if isinstance(masks, Live) else Live(masks)

    @abstractmethod
    def unit_masks(self, weight_masks: Masks) -> Masks:
        """Convert masks of weights to masks of units, by parameter name; a weight without a mask is dense."""

    @abstractmethod
    def weight_masks(self, masks: Masks) -> dict[str, Tensor]:
        """Return the weights that stay, by parameter name: bool, shape and device of the parameter."""

    @abstractmethod
    def view(self, masks: Masks) -> dict[str, Tensor]:
        """Return the tensors that replace parameters and buffers when the masked network runs at full size.

        Evaluation uses them, and they are stored at the end of training. Empty if the zeros are stored in the weights.
        """

    @abstractmethod
    def shares(self, masks: Masks, *, executed: bool = False) -> Shares:
        """Return the share of each weight used in the products of the network with these masks, by parameter name.

        Args:
            masks: masks by unit.
            executed: whether to count the products really computed, including padding zeros.
        """

    def __str__(self) -> str:
        """Name the back end and the network."""
        return f"{type(self).__name__} of {type(self.module).__name__}: {len(self.units)} masks"


class SharedMasks(Backend):
    """Base class of back ends that run the networks of another back end, with the same masks, units and numbers.

    Args:
        network: the other back end.
    """

    def __init__(self, network: Backend) -> None:
        self.network, self.module, self.units = network, network.module, network.units

    def live(self, masks: Masks) -> Live:
        """Return the masks with the results that the other back end derives from them."""
        return self.network.live(masks)

    def unit_masks(self, weight_masks: Masks) -> Masks:
        """Convert masks of weights to masks of units."""
        return self.network.unit_masks(weight_masks)

    def weight_masks(self, masks: Masks) -> dict[str, Tensor]:
        """Return the weights that stay, by parameter name."""
        return self.network.weight_masks(masks)

    def view(self, masks: Masks) -> dict[str, Tensor]:
        """Return the tensors of the full-size network with zeros."""
        return self.network.view(masks)

    def shares(self, masks: Masks, *, executed: bool = False) -> Shares:
        """Return the share of each weight that is needed; 1 if ``executed`` and the network runs at full size."""
        if executed and self.full_size:
            return dict.fromkeys(self.network.shares(masks), 1.0)
        return self.network.shares(masks, executed=executed)

    def __str__(self) -> str:
        """Describe the other back end under this name."""
        return f"{type(self).__name__}, {self.network}"


def replace(stack: contextlib.ExitStack, module: nn.Module, name: str, value: Any) -> None:
    """Set an attribute of a module, such as its ``forward``, until the stack closes."""
    own: dict[str, Any] = vars(module)
    if name in own:
        stack.callback(own.__setitem__, name, own[name])
    else:
        stack.callback(own.__delitem__, name)
    own[name] = value
