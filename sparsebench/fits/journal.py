"""Record of a run: the cost of its fits, and the measurements after each cycle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sparsebench.fits.state import State
from sparsebench.runs.atomic import write_atomically
from sparsebench.runs.folder import RunFolder

_SUMS = ("steps", "epochs", "train_flops", "train_flops_dense", "executed_flops", "start_flops", "seconds")
_OF_THE_LAST_FIT = ("train_loss", "collapsed_layers", "dead_units")
_OF_THE_LAST_CYCLE = ("val_accuracy", "val_nll", "val_ece")


@dataclass(frozen=True)
class Cycle:
    """Measurements at the end of a cycle.

    Attributes:
        facts: facts about the measured network.
        fits_before: number of fits before this cycle's end.
    """

    facts: Mapping[str, Any]
    fits_before: int


class Journal:
    """Record of every fit and every cycle of a run, in order.

    Args:
        folder: folder of the run, in which the record of its cycles is kept up to date; None to write nothing.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._fits: dict[str, Mapping[str, Any]] = {}
        self._cycles: list[Cycle] = []
        self._last: State | None = None
        self._trained_here: set[str] = set()

    @property
    def fits(self) -> Mapping[str, Mapping[str, Any]]:
        """Facts about each fit so far, by the fit's full name; read only."""
        return MappingProxyType(self._fits)

    @property
    def cycles(self) -> Sequence[Cycle]:
        """The measurements so far; read only."""
        return tuple(self._cycles)

    def note_missing(self, name: str) -> None:
        """Record that a fit did not exist when this process needed it, so that it is trained during this session."""
        self._trained_here.add(name)

    def note_fit(self, name: str, facts: Mapping[str, Any]) -> None:
        """Record a finished fit; the same fit is counted once."""
        self._fits[name] = facts

    def note_cycle(self, state: State) -> None:
        """Record the network of a cycle, and write the file of all cycles."""
        self._cycles.append(Cycle(state.facts, len(self._fits)))
        self._last = state
        if self.folder is not None:
            write_atomically(RunFolder(self.folder).cycles, json.dumps(self.records(), indent=2) + "\n")

    def previous(self, prefix: str = "") -> State | None:
        """Return the network of the last cycle if its recipe's stages have this prefix."""
        last = self._last
        return last if last is not None and last.facts["stage"].startswith(prefix) else None

    def seconds_trained(self) -> float | None:
        """Return the seconds of training since this process started, in all processes; None if nothing was trained."""
        if not self._trained_here:
            return None
        return sum(self._fits[name].get("seconds", 0.0) for name in self._trained_here if name in self._fits)

    def records(self) -> list[dict[str, Any]]:
        """Return the record of each cycle: facts, its cost, the total so far, and the steps of its stages."""
        found: list[dict[str, Any]] = []
        looked, before = 0.0, 0
        fits = list(self._fits.items())
        for cycle in self._cycles:
            upto, facts = cycle.fits_before, dict(cycle.facts)
            looked += facts.pop("look_seconds", 0.0)
            own, so_far = _sums([fit for _, fit in fits[before:upto]]), _sums([fit for _, fit in fits[:upto]])
            so_far["seconds"] += looked
            density = facts.pop("density")
            cost = {f"{key}_so_far": so_far[key] for key in ("steps", "epochs", "train_flops", "seconds")}
            stages = {name: fit.get("steps", 0) for name, fit in fits[before:upto]}
            found.append({**facts, "density": density, "sparsity": 1 - density, **own, **cost, "stages": stages})
            before = upto
        return found

    def conclude(self, state: State, *, total_steps: int) -> State:
        """Return the final state of a recipe, with the facts of all fits together.

        ``train_flops_dense``, to which the ratios refer, is the cost of one dense run over the budget of one fit; if
        nothing was trained, it and the ratios are 0.
        ``explored`` is the largest of all fits, since masks are nested; it is 1 if the first fit was dense.

        Args:
            state: the final network of the recipe.
            total_steps: number of optimizer steps of a whole fit.
        """
        fits, last = list(self._fits.values()), self._cycles[-1].facts
        cost = _sums(fits)
        dense = cost["train_flops_dense"] * total_steps // max(1, cost["steps"])
        trained = [fit for fit in fits if fit.get("seconds")]
        facts = {
            **{key: fits[-1][key] for key in _OF_THE_LAST_FIT if key in fits[-1]},
            **cost,
            "train_flops_dense": dense,
            "train_flops_ratio": cost["train_flops"] / dense if dense else 0.0,
            "executed_flops_ratio": cost["executed_flops"] / dense if dense else 0.0,
            "fits": len(fits),
            "target_reached": all(fit.get("target_reached", True) for fit in fits),
            "seconds": cost["seconds"] + sum(cycle.facts.get("look_seconds", 0.0) for cycle in self._cycles),
            "explored": max((fit["explored"] for fit in fits if "explored" in fit), default=1.0),
            "images_per_second": _mean_speed(trained),
            "peak_memory_mb": max(
                (fit["peak_memory_mb"] for fit in trained if fit.get("peak_memory_mb")), default=None
            ),
            **{key: last.get(key) for key in _OF_THE_LAST_CYCLE},
            "cycles": self.records(),
        }
        return State(state.weights, state.masks, facts, state.members)


def _sums(fits: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Add up the cost of several fits."""
    return {key: sum(fit.get(key, 0) for fit in fits) for key in _SUMS}


def _mean_speed(fits: Sequence[Mapping[str, Any]]) -> float | None:
    speeds = [(fit["seconds"], fit["images_per_second"]) for fit in fits if fit.get("images_per_second")]
    whole = sum(seconds for seconds, _ in speeds)
    return sum(seconds * speed for seconds, speed in speeds) / whole if whole else None
