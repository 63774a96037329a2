"""``sparsebench bench input``: images per second from memory, compared with a DataLoader."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

from sparsebench.app.cli.bench.options import CLOCKS
from sparsebench.app.cli.bench.plain import PADDING, image_loader
from sparsebench.app.cli.bench.protocol import interleave, ratio
from sparsebench.app.cli.bench.training import head, place, save, table
from sparsebench.data.loader import TrainLoader
from sparsebench.data.resident import Resident, Shift, normalise, pad

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def main(options: argparse.Namespace, *, command: str) -> None:
    """Measure an epoch of each way to form batches; print images per second, and the ratio to ours.

    Args:
        options: arguments parsed by ``options.input_``.
        command: the command line, to be recorded.
    """
    device, _ = place(options)
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (options.images, 3, options.size, options.size), dtype=torch.uint8, generator=random)
    labels = torch.arange(options.images) % 10
    cases = ways(images, labels, options, device)
    seconds = interleave(cases, rounds=options.rounds, warmups=1, device=device, clock=CLOCKS[options.clock])
    rows = [
        {
            "way": name,
            "images/s": round(options.images / min(taken)),
            "its time / ours": ratio(taken, seconds["ours"]),
        }
        for name, taken in seconds.items()
    ]
    print(head(options, device, f"{options.images} images, {options.size} px, batch {options.batch}"))
    print(table(rows))
    save(options, command, rows)


def ways(
    images: Tensor, labels: Tensor, options: argparse.Namespace, device: torch.device
) -> dict[str, Callable[[], None]]:
    """Return name -> one epoch: ours, images grouped by shift, and torchvision in a DataLoader if installed."""
    source = Resident(images, labels, mean=MEAN, std=STD, shift=Shift(padding=PADDING))
    loader = TrainLoader(source, batch_size=options.batch, device=device)

    def ours() -> None:
        for _ in loader:
            pass

    padded = pad(images, PADDING, mode="reflect").to(device)

    def grouped() -> None:
        whole = torch.empty((len(images), *images.shape[1:]), dtype=torch.uint8, device=device)
        rows, columns = torch.randint(0, 2 * PADDING + 1, (2, len(images)), device=device)
        side = images.shape[-1]
        for row in range(2 * PADDING + 1):
            for column in range(2 * PADDING + 1):
                mine = (rows == row) & (columns == column)
                whole[mine] = padded[mine, :, row : row + side, column : column + side]
        for part in torch.randperm(len(images), device=device).split(options.batch):
            normalise(whole[part], MEAN, STD)

    cases: dict[str, Callable[[], None]] = {"ours": ours, "ours again": ours, "grouped by shift, whole epoch": grouped}
    if importlib.util.find_spec("torchvision") is not None:
        for workers in options.workers:
            cases[f"DataLoader, torchvision, {workers} workers"] = _epoch(source, options, device, workers)
    return cases


def _epoch(source: Resident, options: argparse.Namespace, device: torch.device, workers: int) -> Callable[[], None]:
    loader = image_loader(source, options.batch, workers, device)

    def run() -> None:
        for batch, classes in loader:
            batch.to(device, non_blocking=True)
            classes.to(device, non_blocking=True)

    return run
