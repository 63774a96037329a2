"""Sample Bernoulli masks and estimate gradients through them."""

from typing import Literal, get_args

import torch
from torch import Tensor

Form = Literal["two_sided", "one_sided", "plain"]


def policy_gradient(
    probabilities: Tensor,
    mask_one: Tensor,
    mask_two: Tensor,
    loss_one: Tensor | float,
    loss_two: Tensor | float,
    form: Form = "two_sided",
    exponent: float = 0.5,
    eps: float = 1e-6,
) -> Tensor:
    """Estimate the gradient of the expected loss with respect to Bernoulli mask probabilities from two samples.

    With h = s (1 - s), the unbiased estimates of dE[L]/ds are ``two_sided`` (L1 - L2)(m1 - m2) / (2h), ``one_sided``
    (L1 - L2)(m1 - s) / h and ``plain`` L1 (m1 - s) / h. Each is multiplied by the preconditioner h^exponent: exponent 0
    gives the unbiased gradient, 1/2 a bounded variance. Source: VR-PGE (Zhou et al. 2021).

    Args:
        probabilities: s in [0, 1], any shape; the result has its shape and type.
        mask_one: First sample m1, of any type.
        mask_two: Second, independent sample m2; not used by ``plain``.
        loss_one: L1, the loss under the first mask, in full precision.
        loss_two: L2, the loss under the second mask on the same batch.
        form: Kind of estimate.
        exponent: Power of the preconditioner, 0 to 1.
        eps: Lower bound of the divisor h. Where a numerator is 0 (as at s = 0 and s = 1), the result is 0.

    Raises:
        ValueError: the form is unknown, or a parameter is out of range.
    """
    _check(form, exponent, eps)
    s = probabilities.detach()
    one = mask_one.detach().to(s.dtype)
    factor = (s * (1.0 - s)).clamp(min=eps).pow(exponent - 1.0)
    if form == "plain":
        return _number(loss_one) * (one - s) * factor
    difference = _number(loss_one) - _number(loss_two)
    if form == "one_sided":
        return difference * (one - s) * factor
    return difference * (one - mask_two.detach().to(s.dtype)) * factor / 2.0


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """Return the values of ``hard`` exactly, with the gradient of ``soft``.

    Source: Bengio, Leonard and Courville 2013, section 4.
    """
    return hard.detach() + (soft - soft.detach())


def long_tailed_step(values: Tensor) -> Tensor:
    """Return 1 where values are above 0 and 0 elsewhere, with a surrogate gradient up to a distance of 1 from the step.

    The surrogate derivative is ``2 - 4 |x|`` for ``|x| <= 0.4``, ``0.4`` for larger ``|x|`` up to 1, and 0 beyond.

    Args:
        values: any shape; the result has its shape and type.

    Source: Liu et al. 2020, equation 7 (from Xu and Cheung 2019).
    """
    away = values.detach().abs()
    slope = torch.where(away <= 0.4, 2 - 4 * away, torch.where(away <= 1, 0.4, 0.0))
    return straight_through((values > 0).to(values.dtype), values * slope)


def bernoulli(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a boolean mask with independent entries, u < s with u uniform in [0, 1).

    The inequality is strict: probability 0 never draws a one and probability 1 always does. Numbers are drawn on the
    generator's device in logical order, in any memory format, so a CPU generator gives the same mask on all devices.
    """
    uniform = torch.rand(probabilities.shape, generator=generator, device=generator.device, dtype=torch.float32)
    return uniform.to(probabilities.device) < probabilities.detach()


def _number(loss: Tensor | float) -> Tensor | float:
    return loss.detach() if isinstance(loss, Tensor) else loss


def _check(form: str, exponent: float, eps: float) -> None:
    if form not in get_args(Form):
        raise ValueError(f"form {form!r} must be one of {', '.join(get_args(Form))}")
    if not (0.0 <= exponent <= 1.0 and eps > 0.0):
        raise ValueError(f"exponent {exponent} must be in [0, 1] and eps {eps} above 0")
