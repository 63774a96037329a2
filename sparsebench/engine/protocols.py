"""Optional interfaces of user modules, callbacks and loggers that the engine checks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch.optim import Optimizer


@runtime_checkable
class OptimizesMore(Protocol):
    """A module whose optimizer includes parameters outside the network.

    Attributes:
        extra_groups: parameter groups that are added to its own.
        extra_optimizers: optimizers that step together with its own.
    """

    extra_groups: list[dict[str, Any]]
    extra_optimizers: list[Optimizer]


@runtime_checkable
class Labelled(Protocol):
    """A callback that shows the name of the stage.

    Attributes:
        label: the stage's name with a colon and a space; empty where the run has one fit only.
    """

    label: str


@runtime_checkable
class Closable(Protocol):
    """A logger that is told how the run ended; other loggers are only finalized."""

    def close(self, *, failed: bool, summary: Mapping[str, Any]) -> None:
        """End the log with the run's outcome.

        Args:
            failed: the run failed.
            summary: numbers of the result; empty without one.
        """
        ...
