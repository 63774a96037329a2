"""Networks by name: the CIFAR networks of the papers, small ones for quick tests, and any timm model."""

from sparsebench.models.from_timm import build_timm
from sparsebench.models.registry import build, names

__all__ = ["build", "build_timm", "names"]
