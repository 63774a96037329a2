"""Programs over runs."""

from sparsebench.recipes.ensemble import imp_ensemble
from sparsebench.recipes.imp import imp
from sparsebench.recipes.merge import Look
from sparsebench.recipes.prune_finetune import prune_finetune
from sparsebench.recipes.run import Run
from sparsebench.recipes.single import single
from sparsebench.recipes.soup import soup
from sparsebench.recipes.state import State
from sparsebench.recipes.swamp import swamp

__all__ = ["Look", "Run", "State", "imp", "imp_ensemble", "prune_finetune", "single", "soup", "swamp"]
