"""Time the ways to compute each layer at its planned density, as ``execution=auto`` does in the first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


def time_layers(
    net: nn.Module, masks: Mapping[str, Tensor], *, shape: Sequence[int], batch: int
) -> list[dict[str, Any]]:
    """Return one row for each layer with a mask: the seconds of a forward and backward pass, and the fastest way.

    The layers run on random images within the whole network, so that each sees the layout that the layer before leaves.

    Args:
        net: the network, on the CPU; its weights outside the masks become zero.
        masks: bool, by parameter name.
        shape: of an image.
        batch: images of a step.
    """
    import torch

    from sparsebench.execution.layers import SparseLayers

    params = dict(net.named_parameters())
    with torch.no_grad():
        for name, mask in masks.items():
            params[name].mul_(mask)
    layers = SparseLayers(net, {name: params[name] for name in masks}, "auto")
    with layers.installed(masks):
        net.train()(torch.randn(batch, *shape)).sum().backward()
    return [_row(name, mask, layers) for name, mask in masks.items()]


def _row(name: str, mask: Tensor, layers: Any) -> dict[str, Any]:
    return {
        "name": name,
        "density": int(mask.count_nonzero()) / mask.numel(),
        "seconds": dict(layers.times.get(name, {})),
        "chosen": layers.chosen.get(name, "masked"),
        "reason": layers.refused.get(name.rpartition(".")[0], ""),
    }
