"""Programs over runs."""

from sparsebench.recipes.run import Run
from sparsebench.recipes.single import single
from sparsebench.recipes.state import State

__all__ = ["Run", "State", "single"]
