"""Integration of sparse training methods into Lightning."""

from sparsebench.engine.classifier import Classifier
from sparsebench.engine.sparsity import Sparsity

__all__ = ["Classifier", "Sparsity"]
