"""One training from state to state, memoised on disk: what recipes are made of."""

from sparsebench.fits.run import Run
from sparsebench.fits.state import State

__all__ = ["Run", "State"]
