"""Two gloo ranks on the CPU, started by Lightning, which runs this file once per rank: every method in one pair.

``python two_ranks.py FOLDER agree METHOD ...`` writes ``FOLDER/rank0.json`` and ``rank1.json``;
``python two_ranks.py FOLDER diverge`` lets rank 1 go astray;
``python two_ranks.py FOLDER resume`` writes what was measured in each epoch, from the beginning and once more from a
checkpoint in the middle of the second epoch.
"""

import hashlib
import json
import logging
import shutil
import sys
import warnings
from pathlib import Path

import lightning as L
import torch
from torch.distributed import get_rank

from sparsebench.app.config.build import build_run
from sparsebench.app.config.compose import compose_config
from sparsebench.app.process.console import quieten
from sparsebench.fits import Run, State
from sparsebench.methods.given import Given
from sparsebench.sparse import digest

SETTINGS = [
    "model=mlp", "model.hidden=[24]", "dataset=digits", "dataset.limit=128", "dataset.batch_size=32", "sparsity=0.5",
    "dataset.augment=false", "every=2", "trainer.max_epochs=4", "trainer.accelerator=cpu", "progress=none",
    "logger=none",
]  # fmt: skip
DDP = ["trainer.strategy=ddp", "trainer.devices=2"]


def run_of(method: str, folder: Path, *settings: str) -> Run:
    """Build a run of sixteen steps."""
    folder.mkdir(parents=True, exist_ok=True)
    return build_run(compose_config([f"method={method}", *SETTINGS, *settings]), folder)


def start_of(run: Run) -> State | None:
    """Hand masks to a method that takes them from a recipe: every second weight."""
    if not isinstance(run.setup.method, Given):
        return None
    weights = run.initial().weights
    masks = {
        n: torch.arange(weights[n].numel()).reshape(p.shape) % 2 == 0
        for n, p in run.setup.prunable.select(run.setup.network()).items()
    }
    return State({n: w * masks[n] if n in masks else w for n, w in weights.items()}, masks)


class Rows(L.Callback):
    """Note which images this rank has seen, in order."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.seen.append([hashlib.sha1(image.numpy().tobytes()).hexdigest()[:12] for image in batch[0]])


class Astray(L.Callback):
    """Change one weight on rank 1 alone."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == 1 and trainer.global_rank == 1:
            with torch.no_grad():
                module.net.fc.weight.mul_(-1.0)


class Epochs(L.Callback):
    """Note the training metrics of each epoch, and keep the checkpoint of step six for another run."""

    def __init__(self, run: Run, other: Run) -> None:
        self.run, self.other = run, other
        self.seen: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == 6 and trainer.is_global_zero and self.run is not self.other:
            shutil.copy(self.run.stages.checkpoint("single"), self.other.stages.checkpoint("single"))

    def on_train_epoch_end(self, trainer, module):
        self.seen.append({name: float(trainer.callback_metrics[name]) for name in ("train_loss", "train_accuracy")})


def resume(folder: Path) -> None:
    runs = [run_of("rigl", folder / name, *DDP, "trainer.save_steps=2") for name in ("whole", "resumed")]
    told = []
    for run in runs:
        epochs = Epochs(run, runs[1])
        run = run.replace(progress=lambda epochs=epochs: [epochs])
        state = run.fit("single")
        told.append({"epochs": epochs.seen, "weights": digest(state.weights)})
    (folder / f"rank{get_rank()}.json").write_text(json.dumps(told))


def agree(folder: Path, methods: list[str]) -> None:
    told = {}
    for method in methods:
        rows, run = Rows(), run_of(method, folder / method, *DDP)
        run = run.replace(progress=lambda rows=rows: [rows])
        state = run.fit("single", start_of(run))
        told[method] = {
            "masks": digest(state.masks),
            "weights": digest(state.weights),
            "active": sum(int(mask.sum()) for mask in state.masks.values()),
            "samples": state.facts["train_flops_dense"],
            "rows": rows.seen,
        }
    (folder / f"rank{get_rank()}.json").write_text(json.dumps(told))


def diverge(folder: Path) -> None:
    run = run_of("rigl", folder / "diverge", *DDP).replace(progress=lambda: [Astray()])
    run.fit("single")


if __name__ == "__main__":
    quieten()
    warnings.filterwarnings("ignore")
    logging.disable(logging.INFO)
    where, what, *names = sys.argv[1:]
    if what == "agree":
        agree(Path(where), names)
    else:
        {"diverge": diverge, "resume": resume}[what](Path(where))
