"""Tensor operations of the sparse state: read counts in one transfer, and clear weights with their moments."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer


def whole_numbers(scalars: Mapping[str, Tensor]) -> dict[str, int]:
    """Read integer scalars from the device in a single transfer."""
    if not scalars:
        return {}
    values = cast(list[int], torch.stack(list(scalars.values())).tolist())  # pyright: ignore[reportUnknownMemberType]
    return dict(zip(scalars, values, strict=True))


def clear_(parameter: Parameter, keep: Tensor, optimizer: Optimizer | None) -> None:
    """Set a weight and its moments in the optimizer to zero wherever ``keep`` is False."""
    lost = ~keep
    parameter.masked_fill_(lost, 0.0)
    if optimizer is None:
        return
    state: dict[str, Any] = optimizer.state.get(parameter, {})
    for value in state.values():
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            value.masked_fill_(lost, 0.0)
