"""Run a module's own steps with other weights, without changing a weight in place."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsebench.methods.base import Objective, Weights


class Step(nn.Module):
    """A module whose forward is a step of a LightningModule, so that ``functional_call`` can swap weights."""

    def __init__(self, module: L.LightningModule, step: Callable[..., Any], prefix: str) -> None:
        super().__init__()
        self.module = module
        self._step = step
        self._prefix = f"module.{prefix}." if prefix else "module."

    def forward(self, *args: Any) -> Any:
        """Call the step."""
        return self._step(*args)

    def with_weights(self, weights: Mapping[str, Tensor], *args: Any) -> Any:
        """Call the step with ``weights`` in the place of the parameters of those names."""
        if not weights:
            return self._step(*args)
        swapped = {self._prefix + name: weight for name, weight in weights.items()}
        return torch.func.functional_call(self, swapped, args)


def route_steps(
    module: L.LightningModule, prefix: str, loss: Callable[[Objective], Tensor], view: Callable[[], Weights]
) -> None:
    """Let training see a method's loss, and validation the weights that the method shows.

    Args:
        module: the module whose steps are meant.
        prefix: name of the submodule that holds the sparse parameters; empty for the module itself.
        loss: objective -> loss.
        view: weights that validation sees in the place of the parameters.
    """
    train = Step(module, module.training_step, prefix)
    validate = Step(module, module.validation_step, prefix)

    def training_step(*args: Any) -> Tensor:
        return loss(lambda weights: loss_of(train.with_weights(weights, *args)))

    def validation_step(*args: Any) -> Any:
        return validate.with_weights(view(), *args)

    vars(module).update(training_step=training_step, validation_step=validation_step)


def restore_steps(module: L.LightningModule) -> None:
    """Give a module its own steps, and its own clipping, back."""
    for step in ("training_step", "validation_step", "configure_gradient_clipping"):
        vars(module).pop(step, None)


def spare_empty_steps(module: L.LightningModule) -> None:
    """Let a module clip gradients only where there are some: an update in the place of a step leaves none.

    Clipping by value, of lists of tensors, fails on an empty list.
    """
    clip = module.configure_gradient_clipping

    def configure_gradient_clipping(optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
        held = (parameter.grad for group in optimizer.param_groups for parameter in group["params"])
        if any(gradient is not None for gradient in held):
            clip(optimizer, *args, **kwargs)

    vars(module).update(configure_gradient_clipping=configure_gradient_clipping)


def budget_of(trainer: L.Trainer) -> int:
    """Return the optimizer steps that a trainer will take.

    Raises:
        ValueError: they have no end.
    """
    steps = trainer.estimated_stepping_batches
    if steps == float("inf"):
        raise ValueError("training has no end, schedules need one: set max_epochs or max_steps of the trainer")
    return int(steps)


def will_skip(trainer: L.Trainer, optimizer: Optimizer) -> bool:
    """Tell whether a gradient scaler will skip this step: some gradient of the optimizer is not finite."""
    if getattr(trainer.precision_plugin, "scaler", None) is None:
        return False
    held = [parameter.grad for group in optimizer.param_groups for parameter in group["params"]]
    finite = [torch.isfinite(gradient).all() for gradient in held if gradient is not None]
    return bool(finite) and not bool(torch.stack(finite).all())


def samples_in(batch: Any) -> int:
    """Return the number of samples in a batch: the length of the first tensor found."""
    if isinstance(batch, Tensor):
        return len(batch)
    parts = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, Sequence) else ()
    return next((found for found in map(samples_in, parts) if found), 0)


def loss_of(output: Any) -> Tensor:
    """Return the loss in what a training step returns: a tensor, or a mapping with ``loss``."""
    return output["loss"] if isinstance(output, Mapping) else output


@contextlib.contextmanager
def silenced(module: L.LightningModule) -> Iterator[None]:
    """Ignore ``self.log`` calls: outside of Lightning's loops they raise."""
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        del module.log


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module in evaluation mode, and each of its parts back as it was."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
