"""Size of a perceptron once the units that do nothing are gone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_BYTES = 4  # of a number of float32


def compact(weights: Sequence[Tensor]) -> dict[str, Any]:
    """Return the live units of a perceptron, and its bytes and FLOPs without the dead ones.

    A unit is live if a path of non-zero weights leads from an input through it to an output; biases do not count. Bytes
    are a bit for each place of a layer that has zeros, and float32 for non-zero weights and for biases of live units.
    FLOPs are two for each non-zero weight.

    Args:
        weights: of the layers in order, [outputs, inputs].

    Returns:
        ``live_units``: inputs, then hidden units of each layer; ``compact_bytes``; ``compact_flops``.

    Source: Evci et al. 2020, appendix B, who store a bit mask and float32 values; whether biases count is not stated.
    """
    active = _live([weight.detach() != 0 for weight in weights])
    inputs = [layer.any(0) for layer in active]
    outputs = [*inputs[1:], active[-1].any(1) if len(active) else torch.zeros(0, dtype=torch.bool)]
    size, flops = 0.0, 0
    for layer, into, out in zip(active, inputs, outputs, strict=True):
        places, ones = int(into.sum()) * int(out.sum()), int(layer.sum())
        size += (places / 8 if ones < places else 0) + _BYTES * (ones + int(out.sum()))
        flops += 2 * ones
    return {
        "live_units": [int(layer.sum()) for layer in inputs],
        "compact_bytes": int(-(-size // 1)),
        "compact_flops": flops,
    }


def _live(active: list[Tensor]) -> list[Tensor]:
    """Remove weights from and to dead units until none is left."""
    while True:
        dropped = 0
        for number in range(len(active) - 1):
            layer, following = active[number], active[number + 1]
            alive = layer.any(1) & following.any(0)
            cut, rest = layer & alive[:, None], following & alive
            dropped += int((layer ^ cut).sum()) + int((following ^ rest).sum())
            active[number], active[number + 1] = cut, rest
        if not dropped:
            return active
