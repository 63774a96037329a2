"""Train, prune once by magnitude, fine-tune: the oldest recipe (Han et al. 2015), and a part of many others."""

from __future__ import annotations

from sparsebench.fits.run import Run
from sparsebench.fits.state import State
from sparsebench.recipes.cycle import CHECKS, CycleChecks, conclude, merge
from sparsebench.recipes.pruning import dense_masks, prune, rewind
from sparsebench.recipes.schedule import Plan


def prune_finetune(
    run: Run,
    *,
    finetune_from: float = 0.5,
    retrain: str = "learning_rate",
    finetune_rate: float | None = None,
    look: CycleChecks = CHECKS,
) -> State:
    """Train densely, keep the largest magnitudes, and train the rest further.

    The cost of every phase counts, and the network is measured after each: dense, pruned, fine-tuned.

    Args:
        run: the training setup; its method gives density and distribution.
        finetune_from: share of a run at which fine-tuning would begin; it lasts for the rest of that run.
        retrain: ``learning_rate`` repeats the schedule from there; ``finetune`` uses one rate throughout.
        finetune_rate: the rate of ``finetune``; by default the last of the schedule.
        look: recalibration and measurements after each phase.
    """
    keys = ("finetune_from", "particles")
    plan = Plan.of(run, share=0.5, cycles=1, hit_target="geometric", rewind_to=finetune_from, keys=keys)
    again = plan.retraining(run, retrain=retrain, replay="rest", finetune_rate=finetune_rate)
    trained = run.fit("dense", rewind(run.initial(), dense_masks(run)), **plan.whole)
    merge(run, "dense-measured", [trained], look=look, phase="dense")
    pruned = prune(run, trained, plan.densities[-1])
    merge(run, "pruned-measured", [pruned], look=look, phase="pruned")
    tuned = run.fit("finetuned", pruned, seed=plan.seed(run, 1), **again)
    return conclude(run, merge(run, "finetuned-measured", [tuned], look=look, phase="finetuned"))
