"""Requirements of the check, tested before anything runs and reported in one line."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re

IMPORTS = {
    "torch": "torch>=2.11",
    "lightning": "lightning>=2.6",
    "torchmetrics": "torchmetrics>=1.7",
    "hydra": "hydra-core>=1.3,<1.4",
    "omegaconf": "omegaconf>=2.3,<2.4",
    "yaml": "pyyaml",
    "numpy": "numpy>=1.26",
    "sklearn": "scikit-learn>=1.4",
    "pytest": "pytest>=8",
}
"""Imported name -> requirement for pip. scikit-learn contains the digits on which the tests train."""


def missing(dry: bool) -> list[str]:
    """Return the missing requirements: packages, their versions, and a GPU if one is needed."""
    lacking = [said for name, wanted in IMPORTS.items() if (said := lack(name, wanted))]
    if not lacking and not dry:
        import torch

        if not torch.cuda.is_available():
            lacking.append("a CUDA device visible to torch (--dry runs without one)")
    return lacking


def lack(name: str, wanted: str) -> str:
    """Return a requirement that is not met, with the installed version; an empty text if it is met."""
    if importlib.util.find_spec(name) is None:
        return wanted
    package, *bounds = re.split(r",|(?=[<>])", wanted)
    try:
        found = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # without records, as in some images: believed
        return ""
    for bound in filter(None, bounds):
        sign, version = re.fullmatch(r"(>=|<)(.+)", bound).groups()  # pyright: ignore[reportOptionalMemberAccess]
        if (numbers(found) >= numbers(version)) != (sign == ">="):
            return f"{wanted} ({found} is installed)"
    return ""


def numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: 2.11.0+cu130 -> (2, 11, 0)."""
    return tuple(int(part) for part in re.match(r"\d+(\.\d+)*", version).group().split("."))  # pyright: ignore


def say_missing(lacking: list[str]) -> str:
    """Format the missing requirements in one line."""
    return f"gpu_check: missing here: {', '.join(lacking)}; bring wheels and use pip install --no-index --find-links"
