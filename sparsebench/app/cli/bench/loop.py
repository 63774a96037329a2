"""``sparsebench bench loop``: microseconds that the training loop adds to a step of an almost empty network."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn

from sparsebench.app.cli.bench.training import head, place, save, table
from sparsebench.app.config.build import build_run
from sparsebench.app.config.compose import compose_config
from sparsebench.app.process.console import quieten

WARM = 50
"""Steps before timing starts."""


class Stamp(L.Callback):
    """Record the time after the warm-up steps and after the last step."""

    def __init__(self, last: int) -> None:
        self.last, self.taken = last, 0.0
        self._began = 0.0

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Record the time once the device has finished its work."""
        if trainer.global_step not in (WARM, self.last):
            return
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        if trainer.global_step == WARM:
            self._began = time.perf_counter()
        else:
            self.taken = time.perf_counter() - self._began


def main(options: argparse.Namespace, *, command: str) -> None:
    """Measure and print microseconds per step: a bare loop, ours without sparsity, ours with RigL.

    Args:
        options: arguments parsed by ``options.loop``.
        command: the command line, to be recorded.
    """
    quieten()
    device, _ = place(options)
    cases = {
        "bare loop": lambda: bare(options.steps, device),
        "bare loop again": lambda: bare(options.steps, device),
        "sparsebench, dense": lambda: ours("dense", options.steps, device),
        "sparsebench, rigl": lambda: ours("rigl", options.steps, device),
    }
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(options.rounds):
        for name, case in cases.items():
            taken[name].append(1e6 * case())
    base = statistics.median(taken["bare loop"])
    rows = [
        {"loop": n, "us per step": round(statistics.median(t)), "above bare": round(statistics.median(t) - base)}
        for n, t in taken.items()
    ]
    print(head(options, device, f"perceptron of 16 hidden units, {options.steps} steps of 16 images"))
    print(table(rows))
    save(options, command, rows)


def bare(steps: int, device: torch.device) -> float:
    """Return seconds per step of a bare loop with the same network and momentum."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 10)).to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    images, labels = torch.randn(16, 3, 8, 8, device=device), torch.randint(0, 10, (16,), device=device)
    began = 0.0
    for step in range(steps + WARM):
        if step == WARM:
            _settle(device)
            began = time.perf_counter()
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    _settle(device)
    return (time.perf_counter() - began) / steps


def ours(method: str, steps: int, device: torch.device) -> float:
    """Return seconds per step of a whole fit as in ``sparsebench train``, without logs."""
    settings = ["model=mlp", "model.hidden=[16]", "dataset=synthetic", "dataset.shape=[3,8,8]", "dataset.batch_size=16"]
    settings += [f"method={method}", "logger=none", "progress=none", "every=0.2"]
    settings += [f"dataset.train_size={32 * (steps + WARM)}"]  # one epoch, so that no validation runs in between
    settings += [f"trainer.max_steps={steps + WARM}", "trainer.max_epochs=-1"]
    settings += [f"trainer.accelerator={'gpu' if device.type == 'cuda' else 'cpu'}"]
    stamp = Stamp(steps + WARM)
    with tempfile.TemporaryDirectory() as folder:
        run = build_run(compose_config(settings), Path(folder)).replace(progress=lambda: [stamp])
        run.fit("single")
    return stamp.taken / steps


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
