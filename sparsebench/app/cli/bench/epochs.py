"""``sparsebench bench epochs``: images a second of whole trainings, beside plain loops that mask as others do."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.autograd import DeviceType  # pyright: ignore[reportAttributeAccessIssue]
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from sparsebench.app.cli.bench.options import CLOCKS
from sparsebench.app.cli.bench.peers import PEERS
from sparsebench.app.cli.bench.plain import image_loader
from sparsebench.app.cli.bench.protocol import ratio
from sparsebench.app.cli.bench.training import head, place, table
from sparsebench.app.config.build import build_run, build_setup
from sparsebench.app.config.compose import compose_config
from sparsebench.app.process.console import quieten
from sparsebench.cost.speed import hardware
from sparsebench.data.resident import Resident
from sparsebench.functional.schedule import cosine
from sparsebench.methods import RigL
from sparsebench.methods.probe import Probe
from sparsebench.sparse import SparseModel

BEST = ["trainer.precision=bf16-mixed", "trainer.channels_last=true", "trainer.deterministic=false"]
"""Settings of the fastest case, on any device; on a GPU there is one with CUDA graphs besides."""
SHARE, UNTIL = 0.3, 0.75
"""Share of the active weights that the first update exchanges, and the share of training that has updates."""
PROFILED = (8, 28)
"""First and last of the steps whose kernels are timed."""


def main(options: argparse.Namespace, *, command: str) -> None:
    """Measure whole trainings in turn; print images a second, and the ratios to ours.

    Args:
        options: values of ``options.epochs``.
        command: the command line, for the record.
    """
    torch.set_num_threads(options.threads)
    quieten()
    device, _ = place(options)
    cases = trainings(options, device)
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(options.rounds):
        for name, case in cases.items():
            taken[name].append(case())
    images = (options.epochs - 1) * _trained_images(options)
    rows = [
        {
            "training": name,
            "images/s": round(images / min(seconds)),
            "its time / ours": ratio(seconds, taken["sparsebench, rigl"]),
            "step / its kernels": _over_kernels(name, options, device, min(seconds)) if device.type == "cuda" else "",
        }
        for name, seconds in taken.items()
    ]
    what = f"{options.model}, {options.images} images, batch {options.batch}, {options.sparsity:g} zeros, with data, "
    print(head(options, device, f"{what}log and validation, epochs 2 to {options.epochs}"))
    print(table(rows))
    if options.json:
        said = {"command": command, "hardware": hardware(), "rows": rows}
        options.json.write_text(json.dumps(said, indent=2, default=vars) + "\n", encoding="utf-8")


def trainings(options: argparse.Namespace, device: torch.device) -> dict[str, Callable[[], float]]:
    """Return name -> a whole training that returns the seconds of its epochs from the second on."""
    settings = {"sparsebench, rigl": [], "sparsebench, rigl again": [], "sparsebench, dense": ["method=dense"]}
    settings["sparsebench, rigl, bf16, channels-last"] = BEST
    if device.type == "cuda":
        settings["sparsebench, rigl, CUDA graphs"] = ["trainer.cuda_graphs=auto"]
        settings["sparsebench, rigl, bf16, channels-last, CUDA graphs"] = [*BEST, "trainer.cuda_graphs=auto"]
    cases: dict[str, Callable[[], float]] = {
        name: lambda more=more: ours(configured(options, device, *more), clock=CLOCKS[options.clock])
        for name, more in settings.items()
    }
    cases |= {f"plain loop, {name}": lambda n=name: plain(n, options, device) for name in (*PEERS, "dense")}
    return cases


def configured(options: argparse.Namespace, device: torch.device, *more: str) -> Mapping[str, Any]:
    """Compose our training: RigL on random images in the format of CIFAR, in memory and augmented."""
    accelerator = "gpu" if device.type == "cuda" else "cpu"
    settings = [f"model={options.model}", "dataset=synthetic", f"dataset.shape=[3,{options.size},{options.size}]"]
    settings += [f"dataset.train_size={options.images}", f"dataset.batch_size={options.batch}"]
    settings += [f"sparsity={options.sparsity}", f"every={options.every}", f"trainer.max_epochs={options.epochs}"]
    settings += ["method=rigl", "logger=csv", "progress=none", "monitor.per_layer=false"]
    return compose_config([*settings, f"trainer.accelerator={accelerator}", *more])


def _trained_images(options: argparse.Namespace) -> int:
    kept = options.images - round(0.1 * options.images)
    return kept // options.batch * options.batch


# -- ours -------------------------------------------------------------------------------------------------------------


class Stamp(L.Callback):
    """Measure the time between the ends of the first and the last epoch, with validation and logs."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.taken, self._began, self._clock = 0.0, 0.0, clock

    def on_train_epoch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Note the time once the device has finished its work."""
        now = settled(trainer.strategy.root_device, self._clock)
        if trainer.current_epoch == 0:
            self._began = now
        self.taken = now - self._began


class Kernels(L.Callback):
    """Add up the kernel times of a few steps with the profiler: the least that these steps can take.

    Args:
        activity: the profiler's subject; kernels of a GPU by default.
    """

    def __init__(self, activity: ProfilerActivity = ProfilerActivity.CUDA) -> None:
        self.seconds, self._activity = 0.0, activity
        self._profile: profile | None = None

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Begin with the first of the steps."""
        if trainer.global_step == PROFILED[0] and self._profile is None:
            settled(trainer.strategy.root_device)
            self._profile = profile(activities=[self._activity])
            self._profile.start()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """End with the last, and divide by their number."""
        if trainer.global_step == PROFILED[1] and self._profile is not None:
            settled(trainer.strategy.root_device)
            self._profile.stop()
            total = sum(self._microseconds(event) for event in self._profile.key_averages())
            self.seconds, self._profile = 1e-6 * total / (PROFILED[1] - PROFILED[0]), None

    def _microseconds(self, event: Any) -> float:
        if self._activity is ProfilerActivity.CPU:
            return event.self_cpu_time_total
        # operators of the host repeat the times of their kernels, and annotations span others
        is_kernel = event.device_type == DeviceType.CUDA and not event.is_user_annotation
        return event.self_device_time_total if is_kernel else 0.0


def ours(config: Mapping[str, Any], *callbacks: L.Callback, clock: Callable[[], float] = time.perf_counter) -> float:
    """Train as ``sparsebench train`` does, and return the seconds of the epochs from the second on."""
    stamp = Stamp(clock)
    with tempfile.TemporaryDirectory() as folder:
        run = build_run(config, Path(folder)).replace(progress=lambda: [stamp, *callbacks])
        run.fit("single", alone=True)
        run.close_loggers()
    return stamp.taken


def _over_kernels(name: str, options: argparse.Namespace, device: torch.device, seconds: float) -> str:
    """Return how many times longer a step takes than its kernels, in our fastest cases only."""
    if "bf16" not in name or not name.startswith("sparsebench"):
        return ""
    kernels, graphs = Kernels(), ["trainer.cuda_graphs=auto"] if "graphs" in name else []
    ours(configured(options, device, *BEST, *graphs), kernels)
    step = seconds * options.batch / ((options.epochs - 1) * _trained_images(options))
    return f"{step / kernels.seconds:.2f}" if kernels.seconds else ""


# -- a plain loop -----------------------------------------------------------------------------------------------------


def plain(name: str, options: argparse.Namespace, device: torch.device) -> float:
    """Train in a bare loop over a DataLoader, masked as another program does it, or dense; return the seconds."""
    setup = build_setup(configured(options, device))
    setup.data.prepare_data()
    setup.data.setup("fit")
    train, validation = setup.training_sets()
    assert isinstance(train, Resident)
    assert isinstance(validation, Resident)
    loaders = [image_loader(part, options.batch, options.workers, device, augment=part is train)
               for part in (train, validation)]  # fmt: skip
    network = setup.network().to(device)
    net = SparseModel.of(network)
    pattern = None
    if name in PEERS:
        method = RigL(density=1 - options.sparsity)
        method.start(net, Probe(lambda number, **wanted: [], lambda weights: torch.zeros(())))
        pattern = PEERS[name](net)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    total, step, began = options.epochs * len(loaders[0]), 0, 0.0
    for epoch in range(options.epochs):
        network.train()
        for images, labels in _moved(loaders[0], device):
            functional.cross_entropy(network(images), labels).backward()
            if pattern is None:
                optimizer.step()
            else:
                _masked_step(name, pattern, net, optimizer, step, total, options.every)
            optimizer.zero_grad()
            step += 1
        network.eval()
        with torch.no_grad():
            right = sum((network(x).argmax(1) == y).sum() for x, y in _moved(loaders[1], device))
        float(right)  # read and logged once an epoch
        began = settled(device, CLOCKS[options.clock]) if epoch == 0 else began
    return settled(device, CLOCKS[options.clock]) - began


def _masked_step(
    name: str, pattern: Any, net: SparseModel, optimizer: torch.optim.Optimizer, step: int, total: int, every: int
) -> None:
    """Step, and exchange connections when due: ITOP after the step, rigl-torch in its place."""
    due = step > 0 and step % every == 0 and step <= UNTIL * total
    gradients = {n: g.clone() for n, g in net.gradients().items()} if due else {}
    share = cosine(SHARE, 0.0, min(1.0, step / (UNTIL * total)))
    if not due or name == "itop":
        pattern.before_step(optimizer)
        optimizer.step()
        pattern.after_step(optimizer)
    if due:
        pattern.masks = pattern.update(gradients, share)
        pattern.after_step(optimizer)


def _moved(loader: Any, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    for images, labels in loader:
        yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def settled(device: torch.device, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the time once the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock()
