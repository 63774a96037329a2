"""The environment holds together: what is pinned imports together, and the package says it is typed."""

from importlib.resources import files
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]


def test_torch_torchvision_timm_and_lightning_import_together():
    import lightning  # noqa: F401
    import timm  # noqa: F401
    from torchvision.ops import nms

    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.9], [5.0, 5.0, 6.0, 6.0]])
    assert nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist() == [0, 2]


def test_the_package_is_typed():
    assert files("sparsebench").joinpath("py.typed").is_file()


def test_constraints_hold_names_and_versions_only():
    lines = (ROOT / "constraints.txt").read_text().split()
    assert all(line.count("==") == 1 and "/" not in line and "@" not in line for line in lines)
    assert not {"lightning==2.6.2", "lightning==2.6.3", "torch==2.13.0"} & set(lines)
