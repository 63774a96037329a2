"""Channel pattern: whole filters, or whole input channels, that are zero together."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from sparsebench.patterns.base import Pattern, sum_type


@dataclass(frozen=True)
class Channels(Pattern):
    """Make whole channels active or zero: output filters for ``dim`` 0, input channels for ``dim`` 1."""

    dim: int = 0

    def __post_init__(self) -> None:
        if self.dim not in (0, 1):
            raise ValueError(f"channels along dim={self.dim} are impossible: 0 counts the outputs, 1 the inputs")

    @property
    def whole_outputs(self) -> bool:
        """True for output channels."""
        return self.dim == 0

    def unit(self, shape: tuple[int, ...]) -> int:
        """Return the number of weights of a channel."""
        return math.prod(shape) // shape[self.dim]

    def units(self, values: Tensor) -> Tensor:
        """Sum over each channel: [channels]."""
        rows = values.detach().movedim(self.dim, 0)
        return rows.reshape(rows.shape[0], -1).sum(dim=1, dtype=sum_type(values))

    def spread(self, chosen: Tensor, like: Tensor) -> Tensor:
        """Repeat the choice over the weights of each channel."""
        broad = [1] * like.dim()
        broad[self.dim] = -1
        return super().spread(chosen.reshape(broad).expand(like.shape), like)
