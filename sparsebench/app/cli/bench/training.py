"""Whole training steps of every method, in a bare loop on one device, as measured by the overhead benchmarks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter, functional
from torch.optim import Optimizer

from sparsebench.app.cli.bench.peers import PEERS
from sparsebench.app.config.build import build_setup
from sparsebench.app.config.compose import compose_config
from sparsebench.cost.speed import hardware
from sparsebench.methods import Clock, Method, Probe
from sparsebench.sparse import SparseModel

MIDDLE = Clock(500_001, 1_000_000)
"""A step between two updates of every method, in the middle of a long training."""


class Trained:
    """A network under a method, with its optimizer, ready to take steps.

    Args:
        method: name of a file of ``conf/method``.
        model: name of a file of ``conf/model``.
        sparsity: share of zeros.
        images: a batch.
        labels: classes of the images.
        low: type of the products under autocast; None = the type of the weights.
    """

    def __init__(
        self, method: str, model: str, sparsity: float, images: Tensor, labels: Tensor, low: torch.dtype | None
    ) -> None:
        shape = list(images.shape[1:])
        settings = [f"method={method}", f"model={model}", f"sparsity={sparsity}", "dataset=synthetic", "every=1000000"]
        setup = build_setup(compose_config([*settings, f"dataset.shape={shape}"]))
        torch.manual_seed(0)
        layout = torch.channels_last if images.is_contiguous(memory_format=torch.channels_last) else None
        network = setup.network()
        self.net = SparseModel.of(network, setup.prunable, seed=0)
        learned = setup.method.learned(self.net)
        network = network.to(images.device)
        self.module = network if layout is None else network.to(memory_format=layout)
        self.images, self.labels, self.low = images, labels, low
        self.method: Method = setup.method
        self.net.learned = {name: Parameter(value.to(images.device)) for name, value in learned.items()}
        self.optimizer = self._optimizer(setup)
        self.method.start(self.net, self._probe())

    def _optimizer(self, setup: Any) -> Optimizer:
        classifier = setup.classifier(self.module, total_steps=MIDDLE.total)
        groups, own = classifier.groups(self.module), None
        if self.net.learned:
            group = {"params": list(self.net.learned.values()), **self.method.learned_options()}
            own = self.method.learned_optimizer(group)
            groups += [group] if own is None else []
        classifier.extra_optimizers = [] if own is None else [own]
        classifier.extra_groups = [] if own is not None or not self.net.learned else groups[-1:]
        made = classifier.configure_optimizers()
        return made["optimizer"] if isinstance(made, dict) else made

    def objective(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of the batch."""
        with torch.autocast(self.images.device.type, self.low, enabled=self.low is not None):
            if weights:
                logits = torch.func.functional_call(self.module, dict(weights), (self.images,))
            else:
                logits = self.module(self.images)
        return functional.cross_entropy(logits.float(), self.labels)

    def _probe(self) -> Probe:
        def objectives(number: int, **wanted: Any) -> list[Callable[..., Tensor]]:
            del number, wanted
            return [self.objective]

        def output(weights: Mapping[str, Tensor]) -> Tensor:
            doubles = {n: t.double() for n, t in [*self.module.named_parameters(), *self.module.named_buffers()]}
            ones = torch.ones_like(self.images[:1], dtype=torch.float64)
            return torch.func.functional_call(self.module.eval(), {**doubles, **weights}, (ones,)).sum()

        return Probe(objectives, output, parameters=dict(self.module.named_parameters()))

    def step(self) -> None:
        """Take one step between two updates."""
        self.module.train()
        self.method.loss(self.net, self.objective).backward()
        self.method.passes(self.net, MIDDLE)
        self.method.before_step(self.net, MIDDLE, self.optimizer)
        self.optimizer.step()
        self.method.after_step(self.net, MIDDLE.after, self.optimizer)
        self.optimizer.zero_grad()

    def peer(self, name: str) -> Callable[[], None]:
        """Return a step with the masking of another program."""
        pattern = PEERS[name](self.net)

        def step() -> None:
            self.module.train()
            self.objective({}).backward()
            pattern.before_step(self.optimizer)
            self.optimizer.step()
            pattern.after_step(self.optimizer)
            self.optimizer.zero_grad()

        return step


def place(options: Any) -> tuple[torch.device, torch.dtype | None]:
    """Set the number of threads, and return device and type of products that the options name."""
    torch.set_num_threads(options.threads)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda is impossible without a GPU: choose --device cpu")
    return device, torch.bfloat16 if vars(options).get("dtype") == "bfloat16" else None


def batch(options: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """Draw images and their classes."""
    images = torch.randn(options.batch, 3, options.size, options.size, device=device)
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    return images.contiguous(memory_format=layout), torch.randint(0, 10, (options.batch,), device=device)


def head(options: Any, device: torch.device, what: str) -> str:
    """Return the hardware and settings of the numbers in one line."""
    machine = hardware()
    where = machine["gpu"] if device.type == "cuda" else machine["cpu"]
    return (
        f"{what}; {where}, {options.threads} thread(s), torch {machine['torch']}; medians of {options.rounds} rounds\n"
    )


def save(options: Any, command: str, rows: Sequence[Any]) -> None:
    """Write the rows with command and hardware to the file that the options name, if any."""
    if options.json:
        said = {"command": command, "hardware": hardware(), "rows": rows}
        options.json.write_text(json.dumps(said, indent=2, default=vars) + "\n", encoding="utf-8")


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([str(cell) for cell in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
