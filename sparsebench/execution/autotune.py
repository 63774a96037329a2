"""Choose between two ways to compute the same thing by timing each, once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


class Trial:
    """Use two ways in turn on the first calls, then the faster one.

    Nothing is computed for the sake of timing: every call is a real one. The first call of each way is left out.

    Args:
        rounds: timed calls of each way.

    Attributes:
        choice: the faster way; None while it is not known.
    """

    def __init__(self, *, rounds: int = 2) -> None:
        self.rounds = rounds
        self.choice: bool | None = None
        self._seconds: dict[bool, list[float]] = {True: [], False: []}

    def run(self, call: Callable[[bool], T], *, device: torch.device) -> T:
        """Call ``call(way)`` and time it while no way is chosen."""
        if self.choice is not None:
            return call(self.choice)
        way = len(self._seconds[True]) <= len(self._seconds[False])
        began = _now(device)
        result = call(way)
        self._seconds[way].append(_now(device) - began)
        if all(len(taken) > self.rounds for taken in self._seconds.values()):
            best = {way: min(taken[1:]) for way, taken in self._seconds.items()}
            self.choice = best[True] <= best[False]
        return result


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
