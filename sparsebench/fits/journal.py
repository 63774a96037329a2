"""What a recipe has cost: every fit counts, each cycle on a line of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparsebench.fits.state import State

if TYPE_CHECKING:
    from sparsebench.fits.run import Run

_SUMS = ("steps", "epochs", "train_flops", "dense_flops", "executed_flops", "start_flops", "seconds")


def records(run: Run) -> list[dict[str, Any]]:
    """Return what is known of each cycle, its own cost, the cost so far, and the steps of its stages in order."""
    found: list[dict[str, Any]] = []
    looked, before = 0.0, 0
    for state, upto in zip(run.cycles, run.upto, strict=True):
        fits, facts = list(run.fits.values()), dict(state.facts)
        stages = {name: fit.get("steps", 0) for name, fit in list(run.fits.items())[before:upto]}
        looked += facts.pop("look_seconds", 0.0)
        own, so_far = sums(fits[before:upto]), sums(fits[:upto])
        so_far["seconds"] += looked
        density = facts.pop("density")
        cost = {f"{key}_so_far": so_far[key] for key in ("steps", "epochs", "train_flops", "seconds")}
        found.append({**facts, "density": density, "sparsity": 1 - density, **own, **cost, "stages": stages})
        before = upto
    return found


def sums(fits: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Add up what several fits cost."""
    return {key: sum(fit.get(key, 0) for fit in fits) for key in _SUMS}


def conclude(run: Run, state: State) -> State:
    """Return the final state of a recipe: its facts are those of the recipe, all fits together.

    ``dense_flops``, to which ``train_flops_ratio`` refers, are those of one dense run of the budget of a single fit.
    ``exploration_rate`` is the largest of all fits, since masks are nested: 1 where the first fit was dense.
    """
    fits, total = list(run.fits.values()), run.total_steps()
    cost, last = sums(fits), dict(run.cycles[-1].facts)
    dense = cost["dense_flops"] * total // max(1, cost["steps"])
    trained = [fit for fit in fits if fit.get("seconds")]
    facts = {
        **{key: fits[-1][key] for key in ("train_loss", "collapsed_layers", "dead_units") if key in fits[-1]},
        **cost,
        "dense_flops": dense,
        "fits": len(fits),
        "target_reached": all(fit.get("target_reached", True) for fit in fits),
        "seconds": cost["seconds"] + sum(cycle.facts.get("look_seconds", 0.0) for cycle in run.cycles),
        "exploration_rate": max((fit["exploration_rate"] for fit in fits if "exploration_rate" in fit), default=1.0),
        "images_per_second": _mean_speed(trained),
        "peak_memory_mb": max((fit["peak_memory_mb"] for fit in trained if fit.get("peak_memory_mb")), default=None),
        "val_accuracy": last.get("val_accuracy"),
        "val_nll": last.get("val_nll"),
        "val_ece": last.get("val_ece"),
        "cycles": records(run),
    }
    return State(state.weights, state.masks, facts, state.members)


def _mean_speed(fits: Sequence[Mapping[str, Any]]) -> float | None:
    speeds = [(fit["seconds"], fit["images_per_second"]) for fit in fits if fit.get("images_per_second")]
    whole = sum(seconds for seconds, _ in speeds)
    return sum(seconds * speed for seconds, speed in speeds) / whole if whole else None
