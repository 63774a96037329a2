"""A run over several fits that takes a fraction of a second each: for tests of recipes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn

from sparsebench.data import Synthetic
from sparsebench.engine import Classifier
from sparsebench.fits import Run, Setup, State
from sparsebench.functional.counts import global_budget
from sparsebench.methods import Given
from sparsebench.optim import lr_schedules as schedules


class Net(nn.Module):
    """Convolution, batch norm, dropout, linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.drop, self.fc = nn.Dropout(0.1), nn.Linear(6 * 16, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = nn.functional.max_pool2d(torch.relu(self.norm(self.conv(images))), 2)
        return self.fc(self.drop(hidden.flatten(1)))


def trainer(**arguments: Any) -> L.Trainer:
    fixed = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 2,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "enable_progress_bar": False,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "log_every_n_steps": 1_000_000,
    }
    return L.Trainer(**{**fixed, **arguments})


def tiny_run(folder: Path, *, density: float = 0.3, seed: int = 0, rate: float = 0.1, **changes: Any) -> Run:
    """Return a run of 2 epochs of 6 steps on noise around 4 patterns."""
    data = Synthetic(shape=(1, 8, 8), classes=4, train_size=120, test_size=40, batch_size=16, padding=1, val_share=0.2)
    optimizer = partial(torch.optim.SGD, lr=rate, momentum=0.9, weight_decay=1e-3)
    parts: dict[str, Any] = {
        "network": Net,
        "data": data,
        "classifier": partial(Classifier, classes=4, optimizer=optimizer, schedule=schedules.cosine()),
        "method": Given(density=density, distribution=global_budget),
        "trainer": trainer,
        "seed": seed,
    }
    return Run.at(folder, Setup(**{**parts, **changes}))


def states(folder: Path) -> dict[str, State]:
    """Return every saved state of a run, by name."""
    return {path.stem: State.load(path) for path in sorted(folder.glob("*.pt"))}
