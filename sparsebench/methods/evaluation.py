"""Evaluation of networks for scoring: modes, temperatures, and outputs on an input of ones."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from sparsebench.functional.score import Weights


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Generator[None]:
    """Put a module in evaluation mode, and restore the mode of each part afterwards."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


@contextlib.contextmanager
def tempered(network: nn.Module, temperature: float) -> Generator[None]:
    """Divide a network's outputs by a temperature.

    Raises:
        ValueError: the network does not return a tensor, or was not called.
    """
    if temperature == 1:
        yield
        return
    calls: list[nn.Module] = []

    def divide(part: nn.Module, inputs: Any, logits: Any) -> Tensor:
        calls.append(part)
        if not isinstance(logits, Tensor):
            raise ValueError(f"{type(part).__name__} returns {type(logits).__name__}: {_NEEDS}")
        return logits / temperature

    hook = network.register_forward_hook(divide)
    try:
        yield
    finally:
        hook.remove()
    if not calls:
        raise ValueError(f"training_step does not call {type(network).__name__} as a whole: {_NEEDS}")


_NEEDS = "a temperature needs a network that returns logits; set the method's temperature to 1"


@contextlib.contextmanager
def batch_statistics(module: nn.Module) -> Generator[None]:
    """Make batch norms use the statistics of the batch, as in training, without updating the running ones."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    before = [(norm, norm.training, norm.track_running_stats) for norm in norms]
    for norm in norms:
        norm.training, norm.track_running_stats = True, False
    try:
        yield
    finally:
        for norm, training, tracks in before:
            norm.training, norm.track_running_stats = training, tracks


def positive_output(network: nn.Module, batch: Any) -> Callable[[Weights], Tensor]:
    """Return a function of the weights: summed outputs of a positive float64 copy on an input of ones.

    A norm whose scales are all zero (zero-initialised residual branches) is treated as having scale one. Otherwise its
    branch would score zero and be pruned entirely.
    """
    image: Tensor = batch[0] if isinstance(batch, Sequence) else next(iter(batch.values()))  # pyright: ignore
    twin = copy.deepcopy(network).double().eval()
    with torch.no_grad():
        for tensor in itertools.chain(twin.parameters(), twin.buffers()):
            if tensor.is_floating_point():
                tensor.abs_()
        for layer in twin.modules():
            if (
                isinstance(layer, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm)
                and getattr(layer, "weight", None) is not None
            ):
                layer.weight.masked_fill_((layer.weight == 0).all(), 1.0)
    ones = torch.ones_like(image[:1], dtype=torch.float64)  # pyright: ignore[reportUnknownArgumentType]
    return lambda weights: torch.func.functional_call(twin, dict(weights), (ones,)).sum()
