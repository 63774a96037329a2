"""Rules that act on the weights or gradients of another optimizer: HAM after its step, SparseOpt before it.

Each function builds the given optimizer, adds a hook to its step, and returns that optimizer itself. Parameter groups,
state and state dict are unchanged, so checkpoints, schedules and gradient scalers work as usual.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from .base import RegularizedOptimizer

Build = Callable[..., Optimizer]
"""Parameters or groups, and ``lr`` and ``weight_decay`` -> optimizer."""


def ham(
    params: ParamsT,
    base: Build,
    lr: float,
    weight_decay: float = 0.0,
    *,
    alpha: float = 200.0,
    beta: float = 1e-3,
    max_norm: float = 1000.0,
) -> Optimizer:
    """Build an optimizer whose steps are followed by hyperbolic ones, ``w <- w exp(-lr (alpha sign(w) g + beta))``.

    They act on tensors of two or more dimensions with the gradient g of the step; the exponent is clamped to [-5, 5]. A
    weight at zero stays zero, so masks are kept. A group with ``hyperbolic=True`` has no such step: it holds second
    factors of weights, with which gradient descent is already hyperbolic.

    Args:
        params: parameters, or groups with their own settings.
        base: (params, lr=, weight_decay=) -> optimizer.
        lr: learning rate of both; schedules change it in the groups.
        weight_decay: weight decay of the base optimizer.
        alpha: strength of the sign term.
        beta: strength of the decay.
        max_norm: limit of the norm of each tensor, of any dimension.

    Raises:
        ValueError: a value is negative, or the base optimizer computes the weights from a dual variable.

    Source: Jacobs et al. 2026 (arXiv 2506.02630), algorithm 1, and their code.
    """
    if alpha < 0 or beta < 0 or max_norm <= 0:
        raise ValueError(
            f"ham with alpha={alpha:g}, beta={beta:g}: both must be 0 or more, and max_norm={max_norm:g} above 0"
        )
    optimizer = _build("ham", params, base, lr, weight_decay)
    optimizer.register_step_post_hook(partial(_follow, alpha=alpha, beta=beta, max_norm=max_norm))
    return optimizer


def _follow(done: Optimizer, *_: Any, alpha: float, beta: float, max_norm: float) -> None:
    _step_hyperbolically(done, alpha, beta)
    _limit_norms(done, max_norm)


def _step_hyperbolically(optimizer: Optimizer, alpha: float, beta: float) -> None:
    """Multiply every matrix by the exponential of its gradient and decay, elementwise."""
    for weight, slope, rate in _matrices(optimizer, without="hyperbolic"):
        weight.mul_((-rate * (alpha * weight.sign() * slope + beta)).clamp_(-5.0, 5.0).exp_())


def _limit_norms(optimizer: Optimizer, most: float) -> None:
    """Shorten every tensor with a gradient to a norm of at most ``most``."""
    for tensor in (p.detach() for group in optimizer.param_groups for p in group["params"] if p.grad is not None):
        tensor.mul_((most / tensor.norm()).clamp_(max=1.0))  # a tensor of zeros: by infinity, clamped to 1


def sparse_opt(params: ParamsT, base: Build, lr: float, weight_decay: float = 0.0) -> Optimizer:
    """Build an optimizer that multiplies the gradient of each neuron by ``sqrt((1 - s) / (1 - s_mean))``.

    s is the sparsity of a neuron's incoming weights and s_mean the mean over the layer's neurons. The factor undoes the
    effect of batch norm on gradients of neurons with unequal fan-in. A weight counts as incoming when it or its
    gradient is not zero: outside a mask both are zero, and an active weight at zero contributes nothing to its neuron
    either. Methods use the unscaled gradient for growth, as in the paper. Dense layers do not change.

    Args:
        params: parameters, or groups with their own settings.
        base: (params, lr=, weight_decay=) -> optimizer.
        lr: learning rate of the base optimizer.
        weight_decay: weight decay of the base optimizer.

    Raises:
        ValueError: the base optimizer computes the weights from a dual variable.

    Source: Adnan and Ioannou 2026 (SparseOpt), the authors' description.
    """
    optimizer = _build("sparse_opt", params, base, lr, weight_decay)

    def precede(begun: Optimizer, given: tuple[Any, ...], options: dict[str, Any]) -> Any:
        closure = options.get("closure") or next(iter(given[1:]), None)  # the first argument is the optimizer
        if closure is None:
            _level(begun)
            return None

        def then_level() -> Any:
            """Scale the gradients after computing them, since they exist only once the closure has run."""
            loss = closure()
            _level(begun)
            return loss

        return given[:1], {**options, "closure": then_level}

    optimizer.register_step_pre_hook(precede)
    return optimizer


def _level(optimizer: Optimizer) -> None:
    """Multiply each neuron's gradient by the root of its share of incoming weights over the layer's share."""
    for weight, slope, _rate in _matrices(optimizer):
        incoming = ((weight != 0) | (slope != 0)).flatten(1).to(slope.dtype).mean(dim=1)
        factor = (incoming / incoming.mean().clamp(min=torch.finfo(slope.dtype).tiny)).sqrt()
        slope.mul_(factor.reshape(-1, *[1] * (slope.dim() - 1)))


def _build(who: str, params: ParamsT, base: Build, lr: float, weight_decay: float) -> Optimizer:
    optimizer = base(params, lr=lr, weight_decay=weight_decay)
    if isinstance(optimizer, RegularizedOptimizer):
        raise ValueError(
            f"{who} changes weights or gradients, but {type(optimizer).__name__} computes its weights from a dual "
            f"variable: choose a base such as sgd or adamw"
        )
    return optimizer


def _matrices(optimizer: Optimizer, without: str = "") -> Iterator[tuple[Tensor, Tensor, float]]:
    """Iterate over weights of two or more dimensions, without history, with their gradients and learning rates.

    Args:
        optimizer: whose groups are meant.
        without: key of the groups that are left out; they say that they have the property already.
    """
    for group in optimizer.param_groups:
        if group.get(without, False):
            continue
        for parameter in group["params"]:
            if parameter.grad is not None and parameter.dim() >= 2:
                yield parameter.detach(), parameter.grad.detach(), group["lr"]
