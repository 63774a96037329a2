"""The probe: a method's access to network and data before the first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

from torch.nn import Parameter

from sparsebench.functional.score import Objective
from sparsebench.runs.messages import check_choice

ScoreMode = Literal["eval", "train"]


class Objectives(Protocol):
    """Objectives for scoring: functions from weights to the loss of a batch, the same on every rank."""

    def __call__(
        self, number: int, *, temperature: float = 1.0, mode: ScoreMode = "eval", per_class: int | None = None
    ) -> Sequence[Objective]:
        """Return the objectives of the requested training batches, evaluated in full precision.

        Args:
            number: number of batches.
            temperature: divisor of the network's output.
            mode: ``eval``: norms use running statistics; ``train``: norms use batch statistics. Dropout is off.
            per_class: number of images of each class, in place of a number of batches.
        """
        ...


@dataclass(frozen=True)
class Probe:
    """Access to network and data before the first step, in full precision.

    Attributes:
        objectives: number of batches -> one objective per batch; see ``Objectives`` for further arguments.
        output: weights (float64, by name) -> sum of the network's outputs on an input of ones, in float64.
        parameters: every parameter of the network by name, including those that may not be sparse.
    """

    objectives: Objectives
    output: Objective
    parameters: Mapping[str, Parameter] = field(default_factory=dict[str, Parameter], kw_only=True)

    def ask(
        self, number: int, *, temperature: float = 1.0, mode: ScoreMode = "eval", per_class: int | None = None
    ) -> Sequence[Objective]:
        """Return objectives, passing only non-default arguments, so that custom probes need not accept the others."""
        asked: dict[str, Any] = {} if temperature == 1 else {"temperature": temperature}
        asked |= {} if mode == "eval" else {"mode": mode}
        asked |= {} if per_class is None else {"per_class": per_class}
        return self.objectives(number, **asked)


def check_sample(batches: int | None, per_class: int | None, mode: str) -> None:
    """Raise an error for invalid samples and modes."""
    for name, value in (("batches", batches), ("per_class", per_class)):
        if value is not None:
            at_least_one(name, value)
    check_choice("score_mode", mode, get_args(ScoreMode))


def at_least_one(name: str, value: int) -> None:
    """Raise an error for numbers below 1."""
    if value < 1:
        raise ValueError(f"{name} {value} is impossible: choose a whole number of at least 1")
