"""The only sparse state in the program: parameters, masks, and what a method must remember."""

from sparsebench.sparse.digest import digest
from sparsebench.sparse.model import SparseModel
from sparsebench.sparse.prunable import Prunable

__all__ = ["Prunable", "SparseModel", "digest"]
