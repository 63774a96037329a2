"""Iterative magnitude pruning: train, prune, rewind, repeat (Frankle & Carbin 2019; Frankle et al. 2020).

Weights are ranked by their magnitudes at the end of a cycle. Sources: Frankle et al. 2020 (arXiv 1912.05671),
algorithm 2; Renda et al. 2020 (arXiv 2003.02389) for the choices of ``retrain``.
"""

from __future__ import annotations

from sparsebench.fits.run import Run
from sparsebench.fits.state import State
from sparsebench.recipes.cycle import CHECKS, CycleChecks, conclude, merge
from sparsebench.recipes.pruning import dense_masks, prune, rewind
from sparsebench.recipes.schedule import Plan


def imp(
    run: Run,
    *,
    share: float = 0.2,
    cycles: int | None = None,
    hit_target: str = "last_step",
    rewind_to: float = 0.1,
    retrain: str = "weights",
    replay: str = "whole",
    ticket_rate: float | None = None,
    finetune_rate: float | None = None,
    look: CycleChecks = CHECKS,
) -> State:
    """Train, remove the smallest magnitudes, reset, and train again until the target is reached.

    Args:
        run: the training setup; its method gives density and distribution.
        share: share of the remaining weights that a cycle removes.
        cycles: number of prunings; as many as needed by default.
        hit_target: ``last_step``, ``geometric`` or ``none``; see ``schedule_densities``.
        rewind_to: share of a run if below 1, otherwise a number of steps.
        retrain: start of a cycle, ``weights``, ``learning_rate`` or ``finetune``; see ``Plan.retraining``.
        replay: part of the schedule after rewinding weights, ``whole`` or ``rest``; see ``Plan.retraining``.
        ticket_rate: constant learning rate until the rewind step; by default the schedule's.
        finetune_rate: learning rate of fine-tuning; by default the last of the schedule.
        look: measurements after each cycle.
    """
    plan = Plan.of(run, share=share, cycles=cycles, hit_target=hit_target, rewind_to=rewind_to)
    again = plan.retraining(run, retrain=retrain, replay=replay, finetune_rate=finetune_rate)
    rewinds = retrain == "weights"
    ticket = run.fit("ticket", **plan.ticket(ticket_rate)) if rewinds else run.initial()
    trained = rewind(ticket, dense_masks(run))
    for cycle, density in enumerate(plan.densities):
        pruned = prune(run, trained, density)
        start = rewind(ticket, pruned.masks) if rewinds else pruned
        arguments = again if cycle or rewinds else plan.whole
        trained = run.fit(f"cycle{cycle}", start, seed=plan.seed(run, cycle), **arguments)
        state = merge(run, f"cycle{cycle}-measured", [trained], look=look, cycle=cycle)
    return conclude(run, state)
