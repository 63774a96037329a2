"""Optional interfaces of user modules, callbacks and loggers that the engine checks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch.optim import Optimizer


@runtime_checkable
class OptimizesMore(Protocol):
    """A module whose optimizer includes parameters outside the network.

    Attributes:
        extra_groups: parameter groups to add to the module's own.
        extra_optimizers: optimizers that step together with the module's own.
    """

    extra_groups: list[dict[str, Any]]
    extra_optimizers: list[Optimizer]


@runtime_checkable
class Labelled(Protocol):
    """A callback that shows the name of the stage.

    Attributes:
        label: the stage's name with a colon and a space; empty if the run has only one fit.
    """

    label: str


@runtime_checkable
class Closable(Protocol):
    """A logger that receives the outcome of the run; other loggers are only finalized."""

    def close(self, *, failed: bool, summary: Mapping[str, Any]) -> None:
        """End the log with the run's outcome.

        Args:
            failed: whether the run failed.
            summary: numbers of the result; empty if there is no result.
        """
        ...
