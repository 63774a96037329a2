"""Build the Probe: what a method may ask of network and data before the first step."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from sparsebench.engine.steps import Step, evaluating, loss_of, silenced
from sparsebench.methods.base import Objective, Probe, Weights


def build_probe(trainer: L.Trainer, module: L.LightningModule, prefix: str) -> Probe:
    """Build a probe over the training data, the same on every rank.

    Args:
        trainer: a trainer in ``fit``.
        module: the module whose ``training_step`` returns the loss.
        prefix: name of the submodule that holds the sparse parameters; empty for the module itself.
    """
    step = Step(module, module.training_step, prefix)

    def objective(batch: Any) -> Objective:
        def loss(weights: Weights) -> Tensor:
            with silenced(module), evaluating(module), _full_precision(trainer):
                return loss_of(step.with_weights(weights, batch, 0))

        return loss

    def objectives(number: int) -> Sequence[Objective]:
        return [objective(batch) for batch in first_batches(trainer, number)]

    def output(weights: Weights) -> Tensor:
        target = module.get_submodule(prefix)
        return positive_output(target, first_batches(trainer, 1)[0])(weights)

    return Probe(objectives, output)


def first_batches(trainer: L.Trainer, number: int) -> list[Any]:
    """Return the first training batches of rank 0, on every rank; the loader's position does not move.

    Raises:
        ValueError: when the data hold fewer batches.
    """
    trainer.fit_loop.setup_data()
    loader: Any = trainer.fit_loop._combined_loader.flattened[0]  # type: ignore[union-attr]
    position = loader.state_dict() if hasattr(loader, "state_dict") else None
    batches = list(itertools.islice(iter(loader), number))
    if position is not None:
        loader.load_state_dict(position)
    if len(batches) < number:
        raise ValueError(f"{number} batches are needed for scoring, the training data hold {len(batches)}: ask fewer")
    batches = trainer.strategy.broadcast(batches, src=0)
    return [trainer.strategy.batch_to_device(batch) for batch in batches]


def positive_output(network: nn.Module, batch: Any) -> Callable[[Weights], Tensor]:
    """Return weights -> sum of outputs of a float64 copy whose whole state is positive, on an input of ones.

    A norm whose scale is zero throughout (zero-initialised residual branches) counts as one, since otherwise its
    branch would score zero and be pruned entirely.
    """
    image = batch[0] if isinstance(batch, Sequence) else next(iter(batch.values()))
    twin = copy.deepcopy(network).double().eval()
    with torch.no_grad():
        for tensor in itertools.chain(twin.parameters(), twin.buffers()):
            if tensor.is_floating_point():
                tensor.abs_()
        for layer in twin.modules():
            if isinstance(layer, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm) and layer.weight is not None:
                layer.weight.masked_fill_((layer.weight == 0).all(), 1.0)
    ones = torch.ones_like(image[:1], dtype=torch.float64)
    return lambda weights: torch.func.functional_call(twin, dict(weights), (ones,)).sum()


def _full_precision(trainer: L.Trainer) -> Any:
    return torch.autocast(trainer.strategy.root_device.type, enabled=False)
