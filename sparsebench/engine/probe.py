"""Build the probe through which a method may query network and data before the first step."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torchmetrics import Metric

from sparsebench.engine.sample import balanced_batches, first_batches, first_images
from sparsebench.engine.steps import Step, loss_of, samples_in, silenced
from sparsebench.methods.base import Objective, Probe, Weights
from sparsebench.methods.evaluation import batch_statistics as batch_statistics
from sparsebench.methods.evaluation import evaluating
from sparsebench.methods.evaluation import positive_output as positive_output
from sparsebench.methods.evaluation import tempered as tempered


@dataclass(frozen=True)
class CountingProbe(Probe):
    """A probe that counts the requested passes.

    Attributes:
        samples: () -> number of samples passed through the network so far, counted once per evaluation.
    """

    samples: Callable[[], int]


def build_probe(trainer: L.Trainer, module: L.LightningModule, prefix: str) -> CountingProbe:
    """Build a probe over the training data, the same on every rank.

    Its objectives take a ``temperature``, by which the network's output is divided; a ``mode``, ``eval`` or ``train``
    (norms use batch statistics; dropout stays off, so that scores are a function of weights and data); and
    ``per_class``, a number of images of each class, or ``images``, a total number, instead of a number of batches.
    They do not change the module: nothing is logged, metrics are reset, and modes, parameters and running statistics
    are restored.

    Args:
        trainer: a trainer in ``fit``.
        module: the module whose ``training_step`` returns the loss.
        prefix: name of the submodule that holds the sparse parameters; empty for the module itself.
    """
    network = module.get_submodule(prefix)
    seen: list[int] = []
    objectives = _objectives_of(trainer, module, prefix, seen)

    @functools.cache
    def positive() -> Callable[[Weights], Tensor]:
        return positive_output(network, first_batches(trainer, 1)[0])

    def output(weights: Weights) -> Tensor:
        seen.append(1)
        with _scoring(trainer, module):
            return positive()(weights)

    parameters = dict(network.named_parameters())
    return CountingProbe(objectives, output, lambda: sum(seen), parameters=parameters)


def _objectives_of(
    trainer: L.Trainer, module: L.LightningModule, prefix: str, seen: list[int]
) -> Callable[..., Sequence[Objective]]:
    """Return the function from a number of batches, or of images, to their objectives; ``seen`` counts samples."""
    step = Step(module, module.training_step, prefix)
    network = module.get_submodule(prefix)

    def objective(batch: Any, temperature: float, mode: str) -> Objective:
        def loss(weights: Weights) -> Tensor:
            seen.append(samples_in(batch))
            statistics = batch_statistics(module) if mode == "train" else contextlib.nullcontext()
            with _scoring(trainer, module), statistics, tempered(network, temperature):
                return loss_of(step.with_weights(weights, batch, 0))

        return loss

    def objectives(
        number: int,
        *,
        temperature: float = 1.0,
        mode: str = "eval",
        per_class: int | None = None,
        images: int | None = None,
    ) -> Sequence[Objective]:
        if images is not None:
            batches = first_images(trainer, images)
        else:
            batches = first_batches(trainer, number) if per_class is None else balanced_batches(trainer, per_class)
        return [objective(batch, temperature, mode) for batch in batches]

    return objectives


@contextlib.contextmanager
def _scoring(trainer: L.Trainer, module: L.LightningModule) -> Iterator[None]:
    """Evaluate in full precision without side effects, and with second derivatives (no fused attention)."""
    compiled = any(part._compiled_call_impl is not None for part in module.modules())
    eager = torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext()
    full = torch.autocast(trainer.strategy.root_device.type, enabled=False)
    with silenced(module), evaluating(module), full, eager, sdpa_kernel(SDPBackend.MATH):
        yield
    for part in module.modules():
        if isinstance(part, Metric):
            part.reset()
