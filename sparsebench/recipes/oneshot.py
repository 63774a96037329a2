"""Prune a trained network once, with a little data and without training: the recipe of Wanda, SparseGPT and oBERT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsebench.cost.flops import FLOPS_PER_MAC, dense_macs
from sparsebench.fits.run import Run
from sparsebench.fits.state import State
from sparsebench.methods import Dense
from sparsebench.recipes.cycle import CHECKS, CycleChecks, Evaluator, conclude, merge
from sparsebench.recipes.pruners import Pruner, Trained
from sparsebench.recipes.pruning import dense_masks, pruning, rewind


def oneshot(run: Run, *, pruner: Pruner | None = None, train: bool = False, look: CycleChecks = CHECKS) -> State:
    """Prune the network that the run starts from, and measure it before and after.

    Args:
        run: the setup; its method gives density, distribution and pattern, its network the trained weights.
        pruner: scores and compensates; magnitudes by default.
        train: train densely first, for a network that is not trained yet.
        look: recalibration and measurements.

    Raises:
        ValueError: the pruner needs a budget per layer, and layers share one.
    """
    pruner, method = pruner or Pruner(), pruning(run)
    pruner.check(method)
    budget = method.budget(run.setup.blank)
    if pruner.needs_layers and not isinstance(budget, Mapping):
        raise ValueError(
            f"{type(pruner).__name__} prunes layer by layer, and distribution=global says nothing of a layer: choose "
            f"distribution=uniform, erk or er"
        )
    start = rewind(run.initial(), dense_masks(run))
    last = run.setup.total_steps() if train else 0
    trained = run.fit("dense", start, method=Dense(), span=(0, last))
    merge(run, "dense-measured", [trained], look=look, phase="dense")
    pruned = run.memo("pruned", lambda: _prune(run, trained, pruner, look))
    run.journal.note_fit(run.stages.full_name("pruned"), pruned.facts)
    return conclude(run, merge(run, "pruned-measured", [pruned], look=look, phase="pruned"))


def _prune(run: Run, trained: State, pruner: Pruner, look: CycleChecks) -> State:
    evaluator, method, names = Evaluator(run.setup, look), pruning(run), tuple(run.setup.blank.params)
    budget = method.budget(run.setup.blank)
    acting = pruner if evaluator.training is not None else Pruner()  # a plan has no data, and counts are the same
    weights, masks = acting.prune(Trained(evaluator, trained.weights, names, method, budget))
    forward, backward = pruner.passes(len(names))
    macs = dense_macs(run.setup.costs(run.setup.network()))
    facts: dict[str, Any] = {"start_flops": round(FLOPS_PER_MAC * (forward + 2 * backward) * macs)}
    return State({**trained.weights, **weights}, masks, facts)
