"""One training from state to state, memoised on disk: what recipes are made of."""

from sparsebench.fits.evaluate import evaluate, load
from sparsebench.fits.journal import Journal
from sparsebench.fits.run import Run
from sparsebench.fits.setup import Numbers, Setup
from sparsebench.fits.stages import Stages
from sparsebench.fits.state import State

__all__ = ["Journal", "Numbers", "Run", "Setup", "Stages", "State", "evaluate", "load"]
