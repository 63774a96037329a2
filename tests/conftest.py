"""Shared helpers live in tests/support.py; this makes them importable."""

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked ``gpu`` where there is none; on one, operators without a deterministic form may say so."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    absent = pytest.mark.skip(reason="no CUDA device")
    said = pytest.mark.filterwarnings("ignore:.*does not have a deterministic implementation.*:UserWarning")
    for item in marked:
        item.add_marker(said if torch.cuda.is_available() else absent)
