"""Means of dictionaries of tensors, such as the weights of several networks (SWA, SWAMP, soups)."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


def mean(dicts: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Average dictionaries of tensors, name by name.

    Floating tensors are accumulated in float64 and returned in their own type, so that the mean of equal tensors, and
    of one, is that tensor bit for bit. Boolean tensors (masks) have no mean and must agree. Integer tensors (counters)
    are taken from the first dictionary.

    Args:
        dicts: At least one dictionary; all with the same names and shapes. They are read one at a time.

    Raises:
        ValueError: there is nothing to average, or names, shapes or masks differ.
    """
    total: dict[str, Tensor] = {}
    first: Mapping[str, Tensor] = {}
    count = 0
    for count, entry in enumerate(dicts, start=1):
        if count == 1:
            first = entry
            total = {name: _widen(value) for name, value in entry.items()}
            continue
        _check(first, entry)
        for name, value in entry.items():
            if value.is_floating_point():
                total[name] += value.detach()
    if count == 0:
        raise ValueError("nothing to average: give at least one dictionary of tensors")
    return {
        name: (value / count).to(first[name].dtype) if value.is_floating_point() else value
        for name, value in total.items()
    }


def running_mean(mean: Mapping[str, Tensor], new: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Update the mean of ``count`` dictionaries by one more: mean + (new - mean) / (count + 1).

    Boolean tensors must agree and integer tensors keep their first value, as in :func:`mean`.

    Args:
        mean: The mean so far; ignored when ``count`` is 0.
        new: The dictionary to add.
        count: Number of dictionaries averaged in ``mean``.

    Raises:
        ValueError: names, shapes or masks differ, or the count is negative.
    """
    if count < 0:
        raise ValueError(f"count {count} must be the number of dictionaries averaged so far, 0 or more")
    if count == 0:
        return {name: value.detach().clone() for name, value in new.items()}
    _check(mean, new)
    result: dict[str, Tensor] = {}
    for name, old in mean.items():
        if old.is_floating_point():
            wide = _widen(old)
            result[name] = wide.add_((new[name].detach() - wide) / (count + 1)).to(old.dtype)
        else:
            result[name] = old.detach().clone()
    return result


def _widen(value: Tensor) -> Tensor:
    """Copy a tensor; floating-point tensors are converted to float64."""
    return value.detach().to(torch.float64, copy=True) if value.is_floating_point() else value.detach().clone()


def _check(first: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    if first.keys() != other.keys():
        name = sorted(first.keys() ^ other.keys())[0]
        raise ValueError(f"dictionaries to average must have the same names; {name!r} is missing in one of them")
    for name, value in first.items():
        if value.shape != other[name].shape:
            shapes = f"{tuple(value.shape)} and {tuple(other[name].shape)}"
            raise ValueError(f"{name!r} has shapes {shapes}; only equal shapes can be averaged")
        if value.dtype == torch.bool and not torch.equal(value, other[name]):
            raise ValueError(f"{name!r} is a mask and differs between members; average members that share their masks")
