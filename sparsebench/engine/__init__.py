"""Where methods meet Lightning."""

from sparsebench.engine.callback import Sparsity
from sparsebench.engine.classifier import Classifier

__all__ = ["Classifier", "Sparsity"]
