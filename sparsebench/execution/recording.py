"""Record a network's forward and backward pass as CUDA graphs, and compare the recording with the plain passes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

Recorded = Callable[..., Tensor]
Capture = Callable[[Recorded, tuple[Tensor, ...]], Recorded]
"""(function of a batch and weights, sample of both) -> the same function, recorded; gradients reach the weights."""

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-3}
"""Type of the products -> largest difference from the plain passes, as a share of the norm; 5 % for lower precision.

Kernels that vary the order of sums stay below; a wrong batch, weight or sum of gradients does not.
"""
LOW = 5e-2
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Unfit(ValueError):
    """Raised with the reason when a network cannot be recorded, or its recording computes something else."""


def capture_on_gpu(function: Recorded, sample: tuple[Tensor, ...]) -> Recorded:
    """Record forward and backward pass as CUDA graphs (``torch.cuda.make_graphed_callables``).

    The warm-up runs the function; the caller restores running statistics and random states.
    """
    return cast(Recorded, torch.cuda.make_graphed_callables(function, sample, allow_unused_input=True))


class Body(nn.Module):
    """A network's own forward as a function of a batch and of all its weights.

    Weights are recorded under other tensors of the same memory: the autograd nodes that collect gradients of the
    parameters themselves belong to the stream that first used them, and a live one would break the recording.
    """

    def __init__(self, network: nn.Module, forward: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.network, self._plain = network, forward
        owners = {
            id(parameter): (part._parameters, name)  # pyright: ignore[reportPrivateUsage]
            for part in network.modules()
            for name, parameter in part.named_parameters(recurse=False)
        }
        named = dict(network.named_parameters())
        self.names = [f"network.{name}" for name in named]
        self._owners = [owners[id(parameter)] for parameter in named.values()]

    def forward(self, batch: Tensor) -> Any:
        """Run the network's own forward."""
        return self._plain(batch)

    def run(self, batch: Tensor, *weights: Tensor) -> Any:
        """Run it with weights instead of the parameters."""
        return torch.func.functional_call(self, dict(zip(self.names, weights, strict=True)), (batch,))

    def weights(self) -> list[Tensor]:
        """Return the present parameters, each once, quickly."""
        return [cast(Tensor, tensors[name]) for tensors, name in self._owners]

    def others(self) -> list[Tensor]:
        """Return other leaves in the memory of the parameters."""
        return [weight.detach().requires_grad_(weight.requires_grad) for weight in self.weights()]


@dataclass(frozen=True)
class Passes:
    """Output, gradients and buffers after a forward and a backward pass."""

    output: tuple[Tensor | None, ...]
    gradients: tuple[Tensor | None, ...]
    buffers: tuple[Tensor | None, ...]


def record(
    network: nn.Module, forward: Callable[[Tensor], Any], batch: Tensor, capture: Capture
) -> Callable[[Tensor], Tensor]:
    """Record the passes of a network, and compare the recording on another batch before it is used.

    Buffers and random states are restored.

    Args:
        network: the network, in the mode to record, with gradients enabled and under the intended autocast.
        forward: the network's own forward.
        batch: a batch of the shape to record.
        capture: function that records.

    Raises:
        Unfit: the network has hooks, cannot be recorded, or a replay gives other results than the plain passes.
    """
    refuse_hooks(network)
    sample = batch.detach().clone()
    other = torch.empty_like(sample).copy_(sample.flip(0))  # so that a replay that keeps the recorded batch is noticed
    kind, body = sample.device.type, Body(network, forward)
    dtype, low = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
    with restored(network):
        expected = passes(network, forward, other)
    with restored(network), torch.autocast(kind, dtype, enabled=low, cache_enabled=False):
        try:
            made = capture(body.run, (sample, *body.others()))
        except (RuntimeError, AssertionError, TypeError, ValueError) as error:
            raise Unfit(f"it cannot be recorded: {' '.join(str(error).split())[:200]}") from error

    def recorded(images: Tensor) -> Tensor:
        return made(images, *body.weights())

    with restored(network):
        found = passes(network, recorded, other)
    worst = max(distance(getattr(found, part), getattr(expected, part)) for part in vars(expected))
    if not worst <= TOLERANCES.get(dtype if low else sample.dtype, LOW):  # NaN counts as an infinite difference
        raise Unfit(f"a replay differs from the plain passes by {worst:.2g} of their norm")
    return recorded


def refuse_hooks(network: nn.Module) -> None:
    """Raise an error for a network with hooks.

    Raises:
        Unfit: a part has a hook; the message names the first.
    """
    for name, part in cast("Iterable[tuple[str, nn.Module]]", network.named_modules()):
        if any(getattr(part, kind, None) for kind in HOOKS):
            raise Unfit(f"{name or 'the network'} has hooks, which are Python and would not run in a replay")


def passes(network: nn.Module, forward: Callable[[Tensor], Any], batch: Tensor) -> Passes:
    """Run a forward and a backward pass; return copies, since the next replay writes over its results.

    Raises:
        Unfit: the network returns something other than one tensor with a gradient.
    """
    output = forward(batch)
    if not (isinstance(output, Tensor) and output.requires_grad):
        raise Unfit("it returns something other than one tensor with a gradient")
    weights = [p for p in network.parameters() if p.requires_grad]
    slope = torch.linspace(-1, 1, output.numel(), device=output.device).reshape(output.shape).to(output.dtype)
    with torch.autocast(batch.device.type, enabled=False):
        found = cast("Sequence[Tensor | None]", torch.autograd.grad(output, weights, slope, allow_unused=True))
    return Passes(
        output=(output.detach().clone(),),
        gradients=tuple(None if gradient is None else gradient.clone() for gradient in found),
        buffers=tuple(buffer.detach().clone() for buffer in network.buffers()),
    )


@contextmanager
def restored(network: nn.Module) -> Generator[None]:
    """Restore buffers and random states at the end of the context."""
    device = next(network.parameters()).device
    kept = [(buffer, buffer.detach().clone()) for buffer in network.buffers()]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):  # pyright: ignore[reportUnknownMemberType]
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, value in kept:
                    buffer.copy_(value)


def distance(found: tuple[Tensor | None, ...], expected: tuple[Tensor | None, ...]) -> float:
    """Return the largest difference of two lists of tensors, as a share of the expected norm.

    For small tensors, a tenth of the norm of all tensors is the reference, because the gradient of a bias before a norm
    consists of rounding errors only.
    """
    if [tensor is None for tensor in found] != [tensor is None for tensor in expected]:
        return float("inf")
    pairs = [(a, b) for a, b in zip(found, expected, strict=True) if a is not None and b is not None]
    if not pairs:
        return 0.0
    sizes = torch.stack([_norm(b) for _, b in pairs])
    away = torch.stack([_norm(a.double() - b.double()) for a, b in pairs])
    least = (_norm(sizes) / 10).clamp(min=torch.finfo(torch.float64).tiny)
    return float((away / torch.maximum(sizes, least)).max())


def _norm(tensor: Tensor) -> Tensor:
    return tensor.double().square().sum().sqrt()
