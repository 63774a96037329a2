"""Statistics of the sparse state: density per layer, exploration, dead units, collapsed layers."""

from __future__ import annotations

from sparsebench.sparse.model import SparseModel
from sparsebench.sparse.tensors import whole_numbers


def explored(net: SparseModel) -> float:
    """Return the share of weights that were ever active, over all weights of layers with a mask.

    The union starts with the first masks. A layer whose mask is all ones counts, a layer without a mask does not; if no
    layer has a mask, the share is 1. Also known as R_s (Liu et al. 2021, in-time over-parameterization).
    """
    fired = net.memory.get("fired", {})
    if not fired:
        return 1.0
    return int(sum(union.sum() for union in fired.values())) / sum(union.numel() for union in fired.values())


def sparsity(net: SparseModel) -> float:
    """Return the share of zeros in the masks, over all parameters that may be sparse."""
    return 1.0 - net.density


def collapsed_layers(net: SparseModel) -> list[str]:
    """Return the names of layers without active weights."""
    return [name for name, count in net.counts.items() if count == 0]


def dead_units(net: SparseModel) -> dict[str, int]:
    """Count the output units (rows, filters) of each layer that have no active weight."""
    rows = {name: mask.reshape(mask.shape[0], -1).any(dim=1) for name, mask in net.masks.items()}
    return whole_numbers({name: (~alive).sum() for name, alive in rows.items()})
