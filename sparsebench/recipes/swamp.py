"""SWAMP: iterative magnitude pruning on the mean of several particles (Choi et al. 2024, arXiv 2305.14852).

Means are used for masks and evaluation only: every cycle starts from the ticket again. The structure follows the
abstract and the public reviews of the paper, since its pseudocode was not available; with one particle and one sample
it is iterative magnitude pruning bit for bit.
"""

from __future__ import annotations

from sparsebench.engine.callbacks.averaging import Averaging
from sparsebench.fits.run import Run
from sparsebench.fits.state import State
from sparsebench.recipes.cycle import CHECKS, CycleChecks, conclude, merge
from sparsebench.recipes.pruning import dense_masks, prune, rewind
from sparsebench.recipes.schedule import Plan


def swamp(
    run: Run,
    *,
    particles: int = 4,
    average: Averaging | None = None,
    switch: float = 0,
    share: float = 0.2,
    cycles: int | None = None,
    hit_target: str = "last_step",
    rewind_to: float = 0.1,
    ticket_rate: float | None = None,
    look: CycleChecks = CHECKS,
) -> State:
    """Train particles from one matching ticket, average over time and over particles, prune the mean, rewind.

    Args:
        run: the training setup; its method gives density and distribution.
        particles: number of networks per cycle; they share ticket and mask and differ in the order of the data.
        average: averaging over the last part of a particle's training (SWA); None for no averaging.
        switch: first cycle with several particles (SWAMP+); a share of the cycles below 1.
        share: share of the remaining weights that a cycle removes.
        cycles: number of prunings; as many as needed by default.
        hit_target: ``last_step``, ``geometric`` or ``none``; see ``schedule_densities``.
        rewind_to: step of the matching ticket: a share of a run if below 1, otherwise a number of steps.
        ticket_rate: constant learning rate of the ticket; by default the schedule's.
        look: recalibration and measurements after each cycle.
    """
    plan = Plan.of(
        run, share=share, cycles=cycles, hit_target=hit_target, rewind_to=rewind_to, particles=particles, switch=switch
    )
    ticket = run.fit("ticket", **plan.ticket(ticket_rate))
    state = rewind(ticket, dense_masks(run))
    for cycle, density in enumerate(plan.densities):
        start = rewind(ticket, prune(run, state, density).masks)
        shared = {"start": start, "average": average, **plan.whole}
        trained = run.fit_all(
            {f"cycle{cycle}-particle{n}": {**shared, "seed": plan.seed(run, cycle, n)} for n in plan.numbers(cycle)}
        )
        state = merge(run, f"cycle{cycle}-measured", trained, look=look, cycle=cycle)
    return conclude(run, state)
