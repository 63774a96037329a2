"""Choose the faster of two ways to compute the same result by timing each of them once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from sparsebench.execution.base import Backend, Masks, SharedMasks
from sparsebench.functional.score import Objective
from sparsebench.sparse.model import SparseModel

T = TypeVar("T")


class Trial:
    """Alternate between two ways of computing on the first calls, then keep the faster one.

    Nothing is computed only for timing: every call is a real one. The first call of each way is not timed.

    Args:
        rounds: number of timed calls of each way.

    Attributes:
        choice: the faster way; None until it is known.
    """

    def __init__(self, *, rounds: int = 2) -> None:
        self.rounds = rounds
        self.choice: bool | None = None
        self._seconds: dict[bool, list[float]] = {True: [], False: []}

    def run(self, call: Callable[[bool], T], *, device: torch.device) -> T:
        """Call ``call(way)``, timed until a way is chosen."""
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


class Fastest(SharedMasks):
    """Run a small network, or the same network at full size if that was faster on the first steps.

    The choice is remembered in ``net.memory["execution"]``, so that a continued training does not time again.

    Args:
        net: the sparse model.
        small: back end that runs small networks.
        full: back end that runs the same networks at full size, with the same masks.
    """

    def __init__(self, net: SparseModel, small: Backend, full: Backend) -> None:
        super().__init__(small)
        self.net, self.full, self.trial = net, full, Trial()

    def run(self, objective: Objective, masks: Masks, *, statistics: bool = True) -> Tensor:
        """Return the loss of the network with these masks, computed the way under trial or the chosen way."""

        def way(small: bool) -> Tensor:
            return (self.network if small else self.full).run(objective, masks, statistics=statistics)

        if "execution" in self.net.memory:
            return way(not self.full_size)
        loss = self.trial.run(way, device=next(self.module.parameters()).device)
        if self.trial.choice is not None:
            self.net.memory["execution"] = {"small": torch.tensor(self.trial.choice)}
        return loss

    @property
    def full_size(self) -> bool:
        """True until the small network has been found to be faster."""
        known = self.net.memory.get("execution")
        return known is None or not bool(known["small"])


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
