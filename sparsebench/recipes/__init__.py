"""Programs over fits, and what they are written with."""

from sparsebench.recipes.accounts import conclude
from sparsebench.recipes.ensemble import imp_ensemble
from sparsebench.recipes.imp import imp
from sparsebench.recipes.merge import Look, merge
from sparsebench.recipes.prune import ones, prune, rewind
from sparsebench.recipes.prune_finetune import prune_finetune
from sparsebench.recipes.run import Run
from sparsebench.recipes.single import single
from sparsebench.recipes.soup import soup
from sparsebench.recipes.state import State
from sparsebench.recipes.swamp import swamp

__all__ = [
    "Look",
    "Run",
    "State",
    "conclude",
    "imp",
    "imp_ensemble",
    "merge",
    "ones",
    "prune",
    "prune_finetune",
    "rewind",
    "single",
    "soup",
    "swamp",
]
