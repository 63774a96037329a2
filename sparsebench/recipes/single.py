"""The recipe of a single fit, for every method that needs only one training run."""

from __future__ import annotations

from sparsebench.fits.run import Run
from sparsebench.fits.state import State


def single(run: Run) -> State:
    """Train once from scratch."""
    return run.fit("single", alone=True)
