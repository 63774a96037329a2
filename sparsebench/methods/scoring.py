"""What pruning at initialisation asks of data: how many batches, or images of each class, and in which mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, cast, get_args

from sparsebench.methods.base import Objective, Probe
from sparsebench.runs.messages import check_choice

ScoreMode = Literal["eval", "train"]


class Scoring(Protocol):
    """Objectives to score with; a probe serves the options that it is asked for."""

    def __call__(
        self, number: int, *, temperature: float = 1.0, mode: str = "eval", per_class: int | None = None
    ) -> Sequence[Objective]:
        """Return objectives of a number of batches, or of a sample with so many images of each class."""
        ...


def objectives_of(
    probe: Probe, number: int, per_class: int | None, mode: ScoreMode, temperature: float = 1.0
) -> Sequence[Objective]:
    """Ask a probe, with no option that says nothing: a probe of a bare loop need not know all of them."""
    asked: dict[str, Any] = {} if temperature == 1 else {"temperature": temperature}
    asked |= {} if mode == "eval" else {"mode": mode}
    asked |= {} if per_class is None else {"per_class": per_class}
    return cast(Scoring, probe.objectives)(number, **asked)


def check_sample(batches: int | None, per_class: int | None, mode: str) -> None:
    """Refuse samples and modes that are none."""
    for name, value in (("batches", batches), ("per_class", per_class)):
        if value is not None:
            at_least_one(name, value)
    check_choice("score_mode", mode, get_args(ScoreMode))


def at_least_one(name: str, value: int) -> None:
    """Refuse numbers below 1."""
    if value < 1:
        raise ValueError(f"{name} {value} is impossible: choose a whole number of at least 1")
