"""Scores of weights: larger means keep (or grow); raw, unnormalised, in the shape of the weight.

An objective is a function from a dictionary of weights to a scalar loss, e.g. by ``torch.func.functional_call``. The
parameters themselves, and their ``grad``, are never touched. Precision, the network's mode and the batch are set by
the objective: score without autocast.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]
Objective = Callable[[Weights], Tensor]
"""(weights by name, used in place of the parameters of those names) -> loss of the current batch."""

Objectives = Objective | Sequence[Objective]


class Score(Protocol):
    """Base class of scores passed to methods as values; ``__call__`` ignores inputs that a score does not need."""

    def __call__(self, *, objective: Objectives, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a number for each weight; larger means keep."""
        ...


def linearized(slopes: Mapping[str, Tensor]) -> Objective:
    """Return the linear objective with these gradients: scores of first order cannot tell it from the loss itself."""
    return lambda weights: torch.stack([(slopes[name] * weight).sum() for name, weight in weights.items()]).sum()


def magnitude(params: Mapping[str, Tensor], objective: Objectives = ()) -> dict[str, Tensor]:
    """Score each weight by |w|, independent of the objective."""
    del objective
    return {name: value.detach().abs() for name, value in params.items()}


def magnitude_by_sign(weight: Tensor, mask: Tensor) -> Tensor:
    """Score each active weight by the share of active weights of its sign that are smaller: float64, 0 elsewhere.

    A cut at a share then removes the same share of positive and of negative weights.

    Source: SET (Mocanu et al. 2018), which removes the smallest positive and the largest negative weights.
    """
    shares = torch.zeros(weight.shape, dtype=torch.float64, device=weight.device)
    for side in (weight.detach() < 0, weight.detach() >= 0):
        active = mask & side
        sizes = weight.detach()[active].abs()
        ranks = sizes.argsort(stable=True).argsort()
        shares[active] = (ranks.double() + 0.5) / max(len(sizes), 1)
    return shares


def gradient(objective: Objectives, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Score each weight by |g|, where g is the gradient of the objective, or the mean gradient of several objectives.

    Source: the growth score of RigL (Evci et al. 2020, section 3).
    """
    slopes = _mean_gradient(_several(objective), _leaves(params))
    return {name: slope.abs() for name, slope in slopes.items()}


def snip(objective: Objectives, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Score each weight by |w g|, the sensitivity of the loss to a multiplicative mask at 1.

    Args:
        objective: Weights to loss. The gradients of several objectives (one per batch) are averaged before taking
            absolute values.
        params: Name to weight.

    Source: SNIP (Lee, Ajanthan and Torr 2019), connection sensitivity without normalisation.
    """
    slopes = _mean_gradient(_several(objective), _leaves(params))
    return {name: (params[name].detach() * slope).abs() for name, slope in slopes.items()}


def grasp(objective: Objectives, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Score each weight by w (H g), half the first-order drop of the squared gradient norm if the weight is removed.

    g and H are the gradient and Hessian of the mean of the objectives: first g over all of them, then one exact
    Hessian-vector product for each, so that only the largest chunk must fit into memory.

    Args:
        objective: Weights to loss, twice differentiable; or several, such as one per chunk of the sample, each of which
            counts the same. The softmax temperature is part of the objective.
        params: Name to weight. H and g are over these weights only.

    Source: GraSP (Wang, Zhang and Grosse 2020, equation 8) with the opposite sign, since the paper removes the largest.
    """
    objectives, leaves = _several(objective), _leaves(params)
    direction = list(_mean_gradient(objectives, leaves).values())
    product = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    for chunk in objectives:
        slopes = _grad(chunk, leaves, create_graph=True)
        inner = torch.stack([(a * b).sum() for a, b in zip(slopes, direction, strict=True)]).sum()
        if not inner.requires_grad:  # an objective linear in the weights: H = 0
            continue
        columns = torch.autograd.grad(inner, list(leaves.values()), allow_unused=True, materialize_grads=True)
        for total, column in zip(product.values(), columns, strict=True):
            total += column / len(objectives)
    return {name: params[name].detach() * value for name, value in product.items()}


def synflow(output: Objective, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Score each weight by |w dR/dw|, where R is the summed output of the network with parameters replaced by |w|.

    Args:
        output: Weights to the network's output on an input of ones; it is summed here. Parameters and buffers that are
            not in ``params`` (batch norm) must be non-negative there as well. Deep networks need float64.
        params: Name to weight; signs are dropped here.

    Raises:
        ValueError: R is not finite.

    Source: SynFlow (Tanaka et al. 2020, equation 2 and algorithm 1).
    """
    leaves = {name: leaf.detach().abs().requires_grad_() for name, leaf in _leaves(params).items()}
    with torch.enable_grad():
        total = output(leaves).sum()
        value = float(total.detach())
        if not math.isfinite(value):
            raise ValueError(f"SynFlow's output is {value} in {total.dtype}: score in float64 without autocast")
        slopes = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return {name: (leaf.detach() * slope).abs() for (name, leaf), slope in zip(leaves.items(), slopes, strict=True)}


def acquisition(gradient: Tensor, counts: Tensor, *, c: float, eps: float, time: float) -> Tensor:
    """Score each weight by |g| + c ln(t) / (N + eps): exploitation plus a bonus for rarely active weights.

    Args:
        gradient: Dense gradient g, unscaled; any floating type, ranked in at least float32.
        counts: N, the number of masks so far in which the weight was active; same shape.
        c: Weight of the bonus, 0 or more; 0 gives RigL's score bit for bit.
        eps: Above 0, so that N = 0 is legal. c / eps is the bonus of a weight that was never active.
        time: t, 1 or more, in the method's unit of time.

    Raises:
        ValueError: a parameter is out of range.

    Source: DST-EE (Huang et al. 2023), acquisition function of the growth phase.
    """
    if not (c >= 0 and eps > 0 and time >= 1):
        raise ValueError(f"c {c} must be 0 or more, eps {eps} above 0 and time {time} at least 1")
    exploitation = gradient.detach().abs().to(torch.promote_types(gradient.dtype, torch.float32))
    if c == 0 or time == 1:
        return exploitation
    return exploitation + c * math.log(time) / (counts.to(exploitation.dtype) + eps)


def each_gradient(objective: Objectives, params: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Iterate over the gradients of several objectives, by name of weight."""
    leaves = _leaves(params)
    for one in _several(objective):
        yield dict(zip(leaves, _grad(one, leaves), strict=True))


def _several(objective: Objectives) -> Sequence[Objective]:
    if callable(objective):
        return (objective,)
    if len(objective) == 0:
        raise ValueError("no objective to score with: give a function from weights to loss, or several")
    return objective


def _leaves(params: Mapping[str, Tensor]) -> Weights:
    """Detach the parameters, so that scoring does not change them or their gradients."""
    if not params:
        raise ValueError("no parameters to score: the dictionary of weights is empty")
    return {name: value.detach().requires_grad_() for name, value in params.items()}


def _grad(objective: Objective, leaves: Weights, *, create_graph: bool = False) -> tuple[Tensor, ...]:
    """Differentiate an objective; the gradient of an unused weight is 0."""
    with torch.enable_grad():
        loss = objective(dict(leaves))
        return torch.autograd.grad(
            loss, list(leaves.values()), create_graph=create_graph, allow_unused=True, materialize_grads=True
        )


def _mean_gradient(objectives: Sequence[Objective], leaves: Weights) -> dict[str, Tensor]:
    total = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    for objective in objectives:
        for value, slope in zip(total.values(), _grad(objective, leaves), strict=True):
            value += slope / len(objectives)
    return total
