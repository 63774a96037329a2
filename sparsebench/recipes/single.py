"""One fit: the recipe of every method that lives within one training run."""

from __future__ import annotations

from sparsebench.fits.run import Run
from sparsebench.fits.state import State


def single(run: Run) -> State:
    """Train once."""
    return run.fit("single", alone=True)
