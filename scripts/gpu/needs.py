"""Requirements of the check, tested before anything runs and reported in one line."""

from __future__ import annotations

import importlib.util

IMPORTS = {
    "torch": "torch>=2.11",
    "lightning": "lightning>=2.5",
    "torchmetrics": "torchmetrics>=1.7",
    "hydra": "hydra-core>=1.3,<1.4",
    "omegaconf": "omegaconf>=2.3,<2.4",
    "yaml": "pyyaml",
    "numpy": "numpy>=1.26",
    "sklearn": "scikit-learn>=1.4",
    "pytest": "pytest>=8",
}
"""Imported name -> name for pip. scikit-learn contains the digits on which the tests train."""


def missing(dry: bool) -> list[str]:
    """Return the missing requirements: packages, and a GPU if one is needed."""
    lacking = [wanted for name, wanted in IMPORTS.items() if importlib.util.find_spec(name) is None]
    if not lacking and not dry:
        import torch

        if not torch.cuda.is_available():
            lacking.append("a CUDA device visible to torch (--dry runs without one)")
    return lacking


def say_missing(lacking: list[str]) -> str:
    """Format the missing requirements in one line."""
    return f"gpu_check: missing here: {', '.join(lacking)}; bring wheels and use pip install --no-index --find-links"
