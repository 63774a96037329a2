"""The trace of the Hessian, estimated with random probes: a measure of how sharp a minimum is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


def hessian_trace(
    loss: Callable[[], Tensor],
    params: Mapping[str, Tensor],
    *,
    probes: int,
    generator: torch.Generator,
    masks: Mapping[str, Tensor] | None = None,
) -> float:
    """Estimate the trace of the loss's Hessian over the active weights (Hutchinson 1989).

    The estimate is the mean of ``v' H v`` over vectors of random signs, which is exact for a diagonal Hessian.

    Args:
        loss: called once per probe; a differentiable scalar of ``params``.
        params: leaves that require gradients.
        probes: number of random vectors.
        generator: draws the signs, on the CPU.
        masks: bool, by name; weights outside the masks are ignored.
    """
    total = 0.0
    for _ in range(probes):
        signs = [_signs(p, generator, (masks or {}).get(name)) for name, p in params.items()]
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            value = loss()
        slopes = torch.autograd.grad(value, list(params.values()), create_graph=True)
        along = sum((slope * sign).sum() for slope, sign in zip(slopes, signs, strict=True))
        assert isinstance(along, Tensor)
        curved: Sequence[Tensor | None] = list(torch.autograd.grad(along, list(params.values()), allow_unused=True))
        pairs = zip(curved, signs, strict=True)
        total += float(sum((c * sign).sum().double() for c, sign in pairs if c is not None))
    return total / probes


def _signs(like: Tensor, generator: torch.Generator, mask: Tensor | None) -> Tensor:
    signs = (torch.randint(0, 2, like.shape, generator=generator) * 2 - 1).to(like)
    return signs if mask is None else signs.masked_fill_(~mask.to(like.device), 0.0)
