"""All sparse state of a training: parameters, masks, and the memory of a method."""

from sparsebench.sparse.digest import digest
from sparsebench.sparse.model import SparseModel
from sparsebench.sparse.prunable import Prunable

__all__ = ["Prunable", "SparseModel", "digest"]
