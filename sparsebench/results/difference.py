"""Differences between two runs: configuration, numbers, masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparsebench.results.schema import is_known, shown_in
from sparsebench.results.table import is_number
from sparsebench.runs.identity import WITHOUT_EFFECT
from sparsebench.runs.mappings import differences

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Overlap:
    """Overlap of the two masks of one layer.

    Attributes:
        layer: name of the parameter.
        first: density in the first run.
        second: density in the second run.
        jaccard: active in both, over active in either; 1 if both are empty; None if the shapes differ.
        chance: expected value for independent random masks of these densities.
    """

    layer: str
    first: float
    second: float
    jaccard: float | None
    chance: float | None


def config_changes(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the dotted keys whose values differ, with both values; ``-`` stands for a missing key."""
    one, two = ({k: v for k, v in config.items() if k not in WITHOUT_EFFECT} for config in (first, second))
    return differences(one, two)


def number_changes(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[float | None, float | None]]:
    """Return the numbers of both results that are compared, including those that a method adds.

    Numbers that neither run has are left out.
    """
    own = [name for name in (*first, *second) if not is_known(name)]
    names = dict.fromkeys([*(key.name for key in shown_in("compare")), *own])
    pairs = {name: (_number(first.get(name)), _number(second.get(name))) for name in names}
    return {key: pair for key, pair in pairs.items() if pair != (None, None)}


def mask_overlaps(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> list[Overlap]:
    """Compare the masks of two runs layer by layer; a layer with only one mask counts as dense in the other run.

    Args:
        first: bool, by parameter name; no entry means dense.
        second: the masks of the other run.
    """
    return [_overlap(name, first.get(name), second.get(name)) for name in dict.fromkeys([*first, *second])]


def total_overlap(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float | None:
    """Return the Jaccard index over all layers of equal shape, or None without any."""
    both = either = 0
    for name in dict.fromkeys([*first, *second]):
        one, two = _pair(first.get(name), second.get(name))
        if one.shape == two.shape:
            both, either = both + int((one & two).sum()), either + int((one | two).sum())
    return both / either if either else None


def expected_jaccard(first: float, second: float) -> float:
    """Return the Jaccard index of large independent random masks with two densities."""
    both = first * second
    return both / (first + second - both) if both else 0.0


def _overlap(name: str, first: Tensor | None, second: Tensor | None) -> Overlap:
    one, two = _pair(first, second)
    densities = tuple(int(mask.sum()) / max(1, mask.numel()) for mask in (one, two))
    if one.shape != two.shape:
        return Overlap(name, *densities, jaccard=None, chance=None)
    either = int((one | two).sum())
    jaccard = int((one & two).sum()) / either if either else 1.0
    return Overlap(name, *densities, jaccard=jaccard, chance=expected_jaccard(*densities))


def _pair(first: Tensor | None, second: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return both masks, with a mask of ones for a run whose layer is dense."""
    import torch

    known = first if first is not None else second
    assert known is not None, "one of them has the layer"
    ones = torch.ones(known.shape, dtype=torch.bool)
    return (ones if first is None else first.bool()), (ones if second is None else second.bool())


def _number(value: Any) -> float | None:
    return value if is_number(value) else None
