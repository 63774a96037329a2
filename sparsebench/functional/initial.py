"""Probability distributions from which networks and methods draw weights."""

import torch
from torch import Tensor, nn

from sparsebench.runs.messages import check_choice

LAWS = ("kaiming", "torch", "glorot", "he", "he_uniform", "normal", "truncated")
"""Names of the distributions of a network's initial weights."""
DRAWN = tuple(law for law in LAWS if law not in ("kaiming", "torch"))
"""Names of the distributions of ``draw_``: the other two treat convolutions differently."""


def draw_(weight: Tensor, law: str, *, generator: torch.Generator | None = None) -> Tensor:
    """Draw a weight from a named distribution, in place.

    ``glorot`` and ``he`` are normal distributions of variance 2 / (fan_in + fan_out) and 2 / fan_in, ``he_uniform`` is
    U(+-sqrt(6 / fan_in)), which has the variance of ``he``; ``normal`` and ``truncated`` have a standard deviation of
    0.1, the latter cut at two deviations.

    Args:
        weight: [outputs, inputs, ...], at least two dimensions.
        law: one of ``DRAWN``.
        generator: source of the numbers; torch's global one by default.

    Raises:
        ValueError: for an unknown distribution.

    Sources: Glorot & Bengio 2010, equation 12; He et al. 2015, equation 10.
    """
    check_choice("law", law, DRAWN)
    with torch.no_grad():
        if law == "glorot":
            return nn.init.xavier_normal_(weight, generator=generator)
        if law == "he":
            return nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)
        if law == "he_uniform":
            return nn.init.kaiming_uniform_(weight, nonlinearity="relu", generator=generator)
        if law == "normal":
            return nn.init.normal_(weight, std=0.1, generator=generator)
        return nn.init.trunc_normal_(weight, std=0.1, a=-0.2, b=0.2, generator=generator)
