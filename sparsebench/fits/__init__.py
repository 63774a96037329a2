"""A single training from state to state, stored on disk once made: the building block of recipes."""

from sparsebench.fits.evaluate import evaluate, load
from sparsebench.fits.journal import Journal
from sparsebench.fits.run import Run
from sparsebench.fits.setup import Numbers, Setup
from sparsebench.fits.stages import Stages
from sparsebench.fits.state import State

__all__ = ["Journal", "Numbers", "Run", "Setup", "Stages", "State", "evaluate", "load"]
