"""Sparse model soups: prune, retrain several members, average, continue from the mean (Zimmer et al. 2024)."""

from __future__ import annotations

from sparsebench.fits.run import Run
from sparsebench.fits.state import State
from sparsebench.recipes.cycle import CHECKS, CycleChecks, conclude, merge
from sparsebench.recipes.pruning import dense_masks, prune, rewind
from sparsebench.recipes.schedule import Plan


def soup(
    run: Run,
    *,
    members: int = 3,
    phases: int = 3,
    retrain_from: float = 0.75,
    look: CycleChecks = CHECKS,
) -> State:
    """Prune the mean of the previous phase, retrain members from it, average them uniformly, and repeat.

    Only the learning rate is rewound; the mean is the start of the next phase. Shares are equal and reach the target
    exactly. Members share their masks and differ in the order of the data. Source: arXiv 2306.16788.

    Args:
        run: the training setup; its method gives density and distribution.
        members: number of networks per phase.
        phases: number of prunings.
        retrain_from: retraining repeats the schedule from this share of a run on (learning-rate rewinding).
        look: recalibration and measurements after each phase.
    """
    equal = {"share": 0.5, "cycles": phases, "hit_target": "geometric"}
    keys = ("retrain_from", "members")
    plan = Plan.of(run, **equal, rewind_to=retrain_from, particles=members, switch=1, keys=keys)
    dense = run.fit("dense", rewind(run.initial(), dense_masks(run)), **plan.whole)
    state = merge(run, "phase0-measured", [dense], look=look, phase=0)
    for phase, density in enumerate(plan.densities[1:], start=1):
        start = prune(run, state, density)
        trained = run.fit_all(
            {
                f"phase{phase}-member{n}": {"start": start, "seed": plan.seed(run, phase, n), **plan.rest}
                for n in plan.numbers(phase)
            }
        )
        state = merge(run, f"phase{phase}-measured", trained, look=look, phase=phase)
    return conclude(run, state)
