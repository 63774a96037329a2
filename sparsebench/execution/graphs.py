"""Replay a network's forward and backward pass as CUDA graphs: one launch each instead of hundreds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sparsebench.execution.recording import Capture, Unfit, capture_on_gpu, record

MOST_RECORDINGS = 8
"""A network whose parameters move in memory more often than this runs without graphs."""


class Replayed:
    """The forward pass of a network in training, recorded at the first batch and replayed from then on.

    A replay reads the memory that parameters and buffers had at recording. So it is used only in training mode, with
    gradients, on batches of the recorded shape, type and strides, under the recorded autocast, and if no parameter or
    buffer has moved in memory. Batches of other shapes run without the graph; if a tensor has moved, or another part of
    the network trains, the network is recorded again. Masks of stored zeros act on weights and gradients in place,
    outside the graph.

    A recording is compared with the plain pass before it is used: output, every gradient and every buffer, on a batch
    other than the recorded one. Running statistics and random states are restored after recording.

    The next replay overwrites the gradients of a replay, so do not accumulate over several (pytorch/pytorch#181723);
    set ``active`` to False around such steps.

    Args:
        network: the network; its ``forward`` is replaced while ``installed``.
        capture: function that records; CUDA graphs by default.
        give_up: called with the reason if the network cannot be recorded; it then runs without graphs.

    Attributes:
        active: False runs the network without graphs.
        recordings: number of recordings.
        replays: number of replayed passes.
    """

    def __init__(
        self, network: nn.Module, *, capture: Capture = capture_on_gpu, give_up: Callable[[Unfit], None]
    ) -> None:
        self.network, self.active = network, True
        self.recordings = self.replays = 0
        self._capture, self._give_up = capture, give_up
        self._plain: Callable[..., Any] = network.forward
        self._recorded: Callable[[Tensor], Tensor] | None = None
        self._state: tuple[Any, ...] = ()
        self._call: tuple[Any, ...] = ()
        # looked up by owner and name, so that a replaced tensor is noticed
        self._places = [
            (tensors, name)
            for part in network.modules()
            for tensors in (part._parameters, part._buffers)  # pyright: ignore[reportPrivateUsage]
            for name, tensor in tensors.items()
            if tensor is not None
        ]
        self._parts = list(network.modules())

    def install(self) -> None:
        """Replace the network's forward."""
        vars(self.network)["forward"] = self

    def remove(self) -> None:
        """Restore the network's own forward, and release the recording."""
        if vars(self.network).get("forward") is self:
            del vars(self.network)["forward"]
        self._recorded = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., Any]:
        """Give a copied network its class's own forward: graphs cannot be copied."""
        kind, copied = type(self.network), memo.get(id(self.network), self.network)
        return kind.forward.__get__(copied)

    def __call__(self, batch: Any, *others: Any, **options: Any) -> Any:
        """Run the network, by a replay if that computes the same."""
        if not self._may_replay(batch, others, options):
            return self._plain(batch, *others, **options)
        call, state = _call_of(batch), self._state_now()
        if self._recorded is None or state != self._state:
            self._record(batch, call)
            state = self._state_now()
        if self._recorded is None or call != self._call or state != self._state:
            return self._plain(batch)
        self.replays += 1
        return self._recorded(batch)

    def _may_replay(self, batch: Any, others: tuple[Any, ...], options: dict[str, Any]) -> bool:
        alone = isinstance(batch, Tensor) and not others and not options
        return alone and self.active and self.network.training and torch.is_grad_enabled() and not batch.requires_grad

    def _state_now(self) -> tuple[Any, ...]:
        """Return everything except the batch that a recording depends on."""
        return tuple(_place(tensors[name]) for tensors, name in self._places), tuple(p.training for p in self._parts)

    def _record(self, batch: Tensor, call: tuple[Any, ...]) -> None:
        """Record the passes, or give up."""
        self._recorded = None
        try:
            if self.recordings == MOST_RECORDINGS:
                raise Unfit(f"its parameters have moved in memory {self.recordings} times")
            recorded = record(self.network, self._plain, batch, self._capture)
        except Unfit as reason:
            self.active = False
            self._give_up(reason)
            return
        self.recordings += 1
        self._recorded, self._state, self._call = recorded, self._state_now(), call


def _place(tensor: Tensor | None) -> tuple[int, bool]:
    return (0, False) if tensor is None else (tensor.data_ptr(), tensor.requires_grad)


def _call_of(batch: Tensor) -> tuple[Any, ...]:
    """Return the properties of a batch, and of autocast, that must equal the recorded ones."""
    kind = batch.device.type
    enabled = torch.is_autocast_enabled(kind)
    return batch.shape, batch.stride(), batch.dtype, batch.device, enabled and torch.get_autocast_dtype(kind)
