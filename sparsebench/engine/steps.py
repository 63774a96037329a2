"""Run a module's own steps with other weights without changing a weight in place."""

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
    """A module whose forward is a LightningModule's step, so that ``functional_call`` can swap weights."""

    def __init__(self, module: L.LightningModule, step: Callable[..., Any], prefix: str) -> None:
        super().__init__()
        self.module = module
        self._step = step
        self._prefix = f"module.{prefix}." if prefix else "module."

    def forward(self, *args: Any) -> Any:
        """Call the wrapped step."""
        return self._step(*args)

    def with_weights(self, weights: Mapping[str, Tensor], *args: Any) -> Any:
        """Call the step with ``weights`` in place of the parameters with those names."""
        if not weights:
            return self._step(*args)
        swapped = {self._prefix + name: weight for name, weight in weights.items()}
        return torch.func.functional_call(self, swapped, args)


EVALUATIONS = {"fit": "validation_step", "validate": "validation_step", "test": "test_step", "predict": "predict_step"}
"""Stage of the trainer -> name of the step to run with other weights."""


def route_steps(
    module: L.LightningModule, prefix: str, loss: Callable[[Objective], Tensor], view: Callable[[], Weights], stage: str
) -> None:
    """Make training use a method's loss, and evaluation the weights that the method provides.

    Args:
        module: the module whose steps are replaced.
        prefix: name of the submodule that holds the sparse parameters; empty for the module itself.
        loss: objective -> loss.
        view: weights that evaluation uses in place of the parameters.
        stage: stage of the trainer.
    """
    name = EVALUATIONS[stage]
    routed: dict[str, Callable[..., Any]] = {}
    # a step that the module does not define stays undefined, because Lightning checks for it
    if name == "predict_step" or getattr(type(module), name) is not getattr(L.LightningModule, name):
        evaluate = Step(module, getattr(module, name), prefix)
        routed[name] = lambda *args: evaluate.with_weights(view(), *args)
    if stage == "fit":
        train = Step(module, module.training_step, prefix)
        routed["training_step"] = lambda *args: loss(lambda weights: loss_of(train.with_weights(weights, *args)))
    vars(module).update(routed)


def restore_steps(module: L.LightningModule) -> None:
    """Restore a module's own steps and its own clipping."""
    for step in ("training_step", "configure_gradient_clipping", *EVALUATIONS.values()):
        vars(module).pop(step, None)


def spare_empty_steps(module: L.LightningModule) -> None:
    """Make a module clip gradients only if there are any, since an update in place of a step leaves none.

    Clipping by value works on lists of tensors and fails on an empty list.
    """
    clip = module.configure_gradient_clipping

    def configure_gradient_clipping(optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
        held = (parameter.grad for group in optimizer.param_groups for parameter in group["params"])
        if any(gradient is not None for gradient in held):
            clip(optimizer, *args, **kwargs)

    vars(module).update(configure_gradient_clipping=configure_gradient_clipping)


def refuse_sharding(trainer: L.Trainer) -> None:
    """Raise an error for strategies that shard parameters."""
    name = type(trainer.strategy).__name__
    if any(word in name for word in ("FSDP", "DeepSpeed", "ModelParallel")):
        raise ValueError(f"{name} shards parameters, but masks need whole ones: use strategy ddp or a single device")


def steps_taken(trainer: L.Trainer) -> int:
    """Return the number of steps taken so far; with several optimizers, the steps of each count separately."""
    return trainer.global_step // max(1, len(trainer.optimizers))


def budget_of(trainer: L.Trainer, before: int = 0) -> int:
    """Return the number of optimizer steps that a trainer will take, without those taken before.

    Raises:
        ValueError: the number is infinite, unknown, or below one.
    """
    steps = trainer.estimated_stepping_batches
    if steps == float("inf"):
        raise ValueError(
            "training has no end, but schedules need one: set max_epochs or max_steps of the trainer, "
            "or Sparsity(total_steps=...)"
        )
    if steps < 0:
        raise ValueError(
            "the training data have no length, so the number of steps is unknown, but schedules need it: "
            "set max_steps of the trainer, or Sparsity(total_steps=...)"
        )
    if steps - before < 1:
        raise ValueError(
            f"a training of {int(steps) - before} steps is impossible: set max_epochs or max_steps of the "
            f"trainer to more than the {before} steps taken, or Sparsity(total_steps=...)"
        )
    return int(steps) - before


def will_skip(trainer: L.Trainer, optimizer: Optimizer) -> bool:
    """Return True if a gradient scaler will skip this step: a gradient of the optimizer is not finite."""
    if getattr(trainer.precision_plugin, "scaler", None) is None:
        return False
    held = [parameter.grad for group in optimizer.param_groups for parameter in group["params"]]
    finite = [torch.isfinite(gradient).all() for gradient in held if gradient is not None]
    return bool(finite) and not bool(torch.stack(finite).all())


def refuse_fused_scaling(trainer: L.Trainer, optimizers: Sequence[Optimizer]) -> None:
    """Refuse optimizers that unscale gradients within their own step: methods would see scaled ones.

    Raises:
        ValueError: the first such optimizer under a gradient scaler.
    """
    if getattr(trainer.precision_plugin, "scaler", None) is None:
        return
    for optimizer in optimizers:
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            raise ValueError(
                f"{type(optimizer).__name__}(fused=True) unscales gradients within its step, after the method has "
                f"looked at them: leave fused out (~optimizer.fused) under trainer.precision={trainer.precision}, or "
                f"choose bf16-mixed"
            )


def samples_in(batch: Any) -> int:
    """Return the number of samples in a batch: the length of the first tensor found."""
    if isinstance(batch, Tensor):
        return len(batch)
    parts = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, Sequence) else ()
    return next((found for found in map(samples_in, parts) if found), 0)


def loss_of(output: Any) -> Tensor:
    """Return the loss from a training step's result: a tensor, or a mapping with ``loss``."""
    return output["loss"] if isinstance(output, Mapping) else output


@contextlib.contextmanager
def silenced(module: L.LightningModule) -> Iterator[None]:
    """Ignore ``self.log`` calls, which raise outside of Lightning's loops."""
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        del module.log
