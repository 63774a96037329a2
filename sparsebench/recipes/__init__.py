"""Programs over runs."""

from sparsebench.recipes.cycle import Look
from sparsebench.recipes.imp import imp
from sparsebench.recipes.imp_ensemble import imp_ensemble
from sparsebench.recipes.prune_finetune import prune_finetune
from sparsebench.recipes.single import single
from sparsebench.recipes.soup import soup
from sparsebench.recipes.swamp import swamp

__all__ = ["Look", "imp", "imp_ensemble", "prune_finetune", "single", "soup", "swamp"]
