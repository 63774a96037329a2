"""Recipes, which are programs over fits, and the functions that they share."""

from sparsebench.recipes.cycle import CycleChecks, conclude, merge
from sparsebench.recipes.imp import imp
from sparsebench.recipes.imp_ensemble import imp_ensemble
from sparsebench.recipes.input_pruners import SparseGPT, Wanda
from sparsebench.recipes.oneshot import oneshot
from sparsebench.recipes.prune_finetune import prune_finetune
from sparsebench.recipes.pruners import Pruner
from sparsebench.recipes.pruning import dense_masks, prune, rewind
from sparsebench.recipes.second_order_pruners import CAP, OBERT
from sparsebench.recipes.single import single
from sparsebench.recipes.soup import soup
from sparsebench.recipes.swamp import swamp

Look = CycleChecks
"""Name of the function in configurations of earlier versions."""

__all__ = [
    "CAP",
    "OBERT",
    "CycleChecks",
    "Look",
    "Pruner",
    "SparseGPT",
    "Wanda",
    "conclude",
    "dense_masks",
    "imp",
    "imp_ensemble",
    "merge",
    "oneshot",
    "prune",
    "prune_finetune",
    "rewind",
    "single",
    "soup",
    "swamp",
]
