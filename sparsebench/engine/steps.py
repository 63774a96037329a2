"""Run a module's own steps with other weights, without changing a weight in place."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn


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
