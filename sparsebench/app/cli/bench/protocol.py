"""Measurement protocol: cases in turn, ratios within a round, their median and range."""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Ratio:
    """A ratio of times: the median over rounds, with minimum and maximum."""

    median: float
    least: float
    greatest: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f}-{self.greatest:.2f})"


def interleave(
    cases: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    warmups: int = 2,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Run all cases in turn, round after round.

    Args:
        cases: name -> function to measure.
        rounds: number of counted rounds.
        warmups: number of rounds before them.
        device: device to wait for if it runs asynchronously.
        clock: ``time.perf_counter``, or ``time.process_time`` for one thread on a machine that others use too.

    Returns:
        Seconds by case and round.
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds}: at least 1 is needed, 7 and more for numbers to quote")
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(-warmups, rounds):
        for name, case in cases.items():
            _wait(device)
            began = clock()
            case()
            _wait(device)
            taken = clock() - began
            if number >= 0:
                seconds[name].append(taken)
    return seconds


def ratio(above: Sequence[float], below: Sequence[float]) -> Ratio:
    """Divide the times of one case by the times of another, round by round."""
    each = [a / b for a, b in zip(above, below, strict=True)]
    return Ratio(statistics.median(each), min(each), max(each))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Allocations(TorchDispatchMode):
    """Follow the bytes of all tensors made while it is active.

    Attributes:
        peak: the largest number of bytes in use at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive, self.peak = 0, 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._follow(leaf.untyped_storage())
        return out

    def _follow(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._seen:
            return
        self._seen.add(key)
        size = storage.nbytes()
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.alive -= size


def peak_bytes(case: Callable[[], Any], *, device: torch.device) -> int:
    """Return the peak of bytes that a case adds: from the allocator on a GPU, by following tensors on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        case()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with Allocations() as meter:
        case()
    return meter.peak
