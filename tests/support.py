"""What several test files share: a foreign module, small data, a silent trainer, runs from the configuration."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_DATA = Path(os.environ.get("SPARSEBENCH_DATA") or REPOSITORY.parent / "shared" / "data")

TINY = [
    "model=mlp", "model.hidden=[16]", "dataset=digits", "dataset.limit=128", "dataset.batch_size=16", "sparsity=0.5",
    "trainer.accelerator=cpu", "trainer.max_epochs=2", "progress=none", "every=3",
]  # fmt: skip
"""A run of 16 steps, in half a second."""


@dataclass(frozen=True)
class Answer:
    """The answer of a command: exit code, standard output and standard error."""

    code: int
    out: str
    err: str


class Foreign(L.LightningModule):
    """Somebody's own module: no batch norm, plain SGD with momentum and weight decay, a schedule per step."""

    def __init__(self, optimizer: Any = None, *, width: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, width), nn.ReLU())
        self.head = nn.Linear(width, 10)
        self.build = optimizer or (lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self(images).float(), labels)

    def configure_optimizers(self) -> Any:
        optimizer = self.build(self.parameters())
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.99**step)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Validated(Foreign):
    """The same, with validation."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))


def batches(number: int = 8, size: int = 16, *, seed: int = 1) -> DataLoader:
    """Return a loader of noise in the shape of digits, always in the same order."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(number * size, 1, 8, 8, generator=generator)
    labels = torch.randint(0, 10, (number * size,), generator=generator)
    return DataLoader(TensorDataset(images, labels), batch_size=size)


def silent_trainer(**options: Any) -> L.Trainer:
    """Return a trainer on the CPU that writes and says nothing."""
    fixed = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
    }
    return L.Trainer(**{**fixed, **options})


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return every tensor of an optimizer's state, by position and key."""
    found = {}
    for number, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                found[f"{number}/{key}"] = value
    return found


def command(*arguments: str, timeout: float = 120, cwd: Path | None = None, **environment: str) -> Any:
    """Run ``python -m sparsebench`` with these arguments and return the finished process."""
    return subprocess.run(
        [sys.executable, "-m", "sparsebench", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
        env=environment_of(**environment),
    )


def environment_of(**extra: str) -> dict[str, str]:
    """Return this environment with one thread per process, and without a rank."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "WANDB_API_KEY")}
    return {**inherited, "OMP_NUM_THREADS": "1", **extra}


def disk_of(folder: Path) -> list[str]:
    """List the files below a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
