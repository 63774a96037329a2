"""What the tests on devices share: devices, runs of a method on one, and masks for methods that take theirs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from sparsebench.app.config.build import build_run
from sparsebench.app.config.compose import compose_config
from sparsebench.app.config.tree import conf_dir
from sparsebench.app.process.console import quieten
from sparsebench.fits import Run, State
from sparsebench.methods.given import Given

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
"""The same bodies run on both; ``conftest.py`` skips those marked ``gpu`` where there is none."""
WAITS = {
    "cram": "it selects the largest weights of the network at every step, and exact counts are read from the device",
    "deep_r": "after every step of its walk it looks whether a weight has crossed zero",
    "probmask": "its scores are projected on the budget at every step, and its noise is drawn on the host",
    "vr_pge": "the host draws the masks of every step, since the widths of the small networks follow from them",
}
"""Methods that must look at the device at every step -> why."""
SETTINGS = [
    "dataset=digits", "dataset.limit=384", "dataset.batch_size=16", "dataset.augment=true", "sparsity=0.5",
    "model=digits_cnn", "model.width=8", "progress=none", "logger=none",
]  # fmt: skip


def methods() -> list[str]:
    """Every YAML that names a class."""
    return [
        path.relative_to(conf_dir() / "method").with_suffix("").as_posix()
        for path in sorted((conf_dir() / "method").rglob("*.yaml"))
        if "_target_" in yaml.safe_load(path.read_text())
    ]


def configured(method: str, device: str, *settings: str) -> dict[str, Any]:
    """Compose the configuration of a short run."""
    accelerator = {"cpu": "cpu", "cuda": "gpu"}[device]
    return dict(compose_config([f"method={method}", *SETTINGS, f"trainer.accelerator={accelerator}", *settings]))


def run_of(config: Mapping[str, Any], folder: Path, *callbacks: Any) -> Run:
    """Build a run; callbacks come last."""
    quieten()
    folder.mkdir(parents=True, exist_ok=True)
    return build_run(config, folder).replace(progress=lambda: callbacks)


def start_of(run: Run) -> State | None:
    """Hand masks to a method that takes them from a recipe: every second weight."""
    if not isinstance(run.setup.method, Given):
        return None
    weights = run.initial().weights
    masks = {
        name: (torch.arange(p.numel()) % 2 == 0).reshape(p.shape)
        for name, p in run.setup.prunable.select(run.setup.network()).items()
    }
    return State({n: w * masks[n] if n in masks else w for n, w in weights.items()}, masks)
