"""An ensemble of independent solutions of iterative pruning, as a baseline for a single averaged network."""

from __future__ import annotations

from typing import Any

from sparsebench.fits.run import Run
from sparsebench.fits.state import State
from sparsebench.recipes.cycle import conclude
from sparsebench.recipes.imp import imp


def imp_ensemble(run: Run, *, solutions: int = 2, **arguments: Any) -> State:
    """Prune several networks iteratively, from different initial weights, and average their predictions.

    Inference costs one forward pass per solution.

    Args:
        run: the training setup.
        solutions: number of independent runs of ``imp``, with seeds derived from the run's.
        arguments: arguments of ``imp``.

    Raises:
        ValueError: ``solutions`` is below two.
    """
    if solutions < 2:
        raise ValueError(f"recipe.solutions={solutions} is not an ensemble: give at least 2, or choose recipe=imp")
    seeds = [run.seed + 1_000_003 * number for number in range(solutions)]  # the first solution equals recipe=imp
    runs = [run.replace(seed=seed, prefix=f"solution{number}-") for number, seed in enumerate(seeds)]
    first, *others = [imp(one, **arguments) for one in runs]
    return conclude(run, State(first.weights, first.masks, members=[other.weights for other in others]))
