"""Regularisers of one tensor: their units, norms, sub-gradients and proximal maps.

A unit is zero or non-zero as a whole: an entry for ``l1``, a group for the others. J is the sum over units of sqrt(unit
size) times the Euclidean norm; every function either assumes lambda = 1 or takes lambda as an argument.

The kernels of a matrix are its entries, as in a 1x1 convolution, so that one name covers a whole network of
convolutional and linear layers, as in Table 2 of Bungert et al. 2022.
"""
# pyright: reportPrivateImportUsage=false, reportPrivateUsage=false
# torch exposes its list-wise kernels only under a leading underscore.

import math
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor

from sparsebench.functional.prox import Groups, group_soft_threshold, soft_threshold
from sparsebench.runs.messages import did_you_mean

LEAST_RANK = {"l1": 0, "rows": 2, "kernels": 2, "filters": 3}
ALLOWED = "None, " + ", ".join(repr(name) for name in LEAST_RANK)


def check_regularizer(name: object, parameters: Sequence[Tensor]) -> None:
    """Raise ``ValueError`` for an unknown regulariser, or one that does not fit the tensor's shape."""
    if name is None:
        return
    if not isinstance(name, str) or name not in LEAST_RANK:
        hint = did_you_mean(str(name), [*LEAST_RANK, "none"]).replace("'none'", "None")
        raise ValueError(f"regularizer {name!r} is unknown{hint}: allowed are {ALLOWED}")
    for parameter in parameters:
        least = LEAST_RANK[name]
        if parameter.dim() < least:
            raise ValueError(
                f"regularizer {name!r} needs tensors of {least} or more dimensions, but its group has one of shape "
                f"{tuple(parameter.shape)}; put such tensors into a separate group (regularizer None for biases "
                "and norms)"
            )


def measure_units(tensor: Tensor, name: str) -> Tensor:
    """Return the smallest threshold that makes each unit zero, norm / sqrt(size), kept broadcastable."""
    if _has_entries(tensor, name):
        return tensor.abs()
    dims = _unit_dims(tensor, name)
    return _norm(tensor, dims) / math.sqrt(_unit_size(tensor, dims))


def find_support(primal: Tensor, name: str) -> Tensor:
    """Return the entries that belong to a non-zero unit: bool, shape and strides of ``primal``."""
    if _has_entries(primal, name):
        return primal != 0
    alive = (primal != 0).any(dim=_unit_dims(primal, name), keepdim=True)
    return torch.empty_like(primal, dtype=torch.bool).copy_(alive)


def find_subgradient(primal: Tensor, name: str) -> Tensor:
    """Return the sub-gradient of J at ``primal`` for lambda = 1 that is zero on zero units."""
    if _has_entries(primal, name):
        return primal.sign()
    dims = _unit_dims(primal, name)
    norm = _norm(primal, dims)
    weight = math.sqrt(_unit_size(primal, dims))
    return primal * torch.where(norm > 0, weight / norm, torch.zeros_like(norm))


def limit_units(dual: Tensor, lam: float, name: str) -> Tensor:
    """Project on the sub-gradients of lambda J at zero, where the measure of every unit is at most lambda."""
    if _has_entries(dual, name):
        return dual.clamp(-lam, lam)
    size = measure_units(dual, name)
    # Slightly inside: a group exactly on the boundary may measure more than lambda because of rounding.
    limit = lam * (1.0 - 4.0 * torch.finfo(size.dtype).eps)
    return dual * torch.where(size > limit, limit / size, torch.ones_like(size))


def map_to_primal(dual: Tensor, lam: float, delta: float, name: str | None) -> Tensor:
    """Return prox_{delta lambda J}(delta v), which equals delta prox_{lambda J}(v) because J is homogeneous."""
    if name is None:
        return dual * delta
    if _has_entries(dual, name):
        return soft_threshold(dual, lam) * delta
    return group_soft_threshold(dual, lam, groups=_groups(dual, name)) * delta


def write_primal_(parameters: list[Tensor], duals: list[Tensor], group: dict[str, Any]) -> None:
    """Set every parameter to the image of its dual, in place; all tensors at once if there are no groups."""
    name, delta, lam = group["regularizer"], group["delta"], find_lambda(group)
    if name is None or name == "l1":
        images = duals
        if name == "l1":
            clipped = torch._foreach_clamp_max(duals, lam)
            torch._foreach_clamp_min_(clipped, -lam)
            images = list(torch._foreach_sub(duals, clipped))
        if delta != 1.0:
            images = list(torch._foreach_mul(images, delta))
    else:
        images = [map_to_primal(dual, lam, delta, name) for dual in duals]
    torch._foreach_copy_(parameters, images)


def find_lambda(group: dict[str, Any]) -> float:
    """Return the effective strength of a parameter group: lambda times its scale, 0 without a regulariser."""
    return 0.0 if group["regularizer"] is None else group["lam"] * group["lambda_scale"]


def find_initial_dual(primal: Tensor, group: dict[str, Any]) -> Tensor:
    """Return v = theta / delta + p with p a sub-gradient of J at theta (zero on zero units)."""
    dual = primal.detach() / group["delta"]
    if group["regularizer"] is not None:
        dual.add_(find_subgradient(primal.detach(), group["regularizer"]), alpha=find_lambda(group))
    return dual


def quantile_lambda(duals: Sequence[Tensor], k: int) -> float:
    """Return the lambda at which exactly k entries of the duals survive the threshold |v| > lambda.

    It is the (k+1)-th largest absolute value, or 0 if all entries survive. Entries equal to it do not survive, and
    zeros never survive.

    Args:
        duals: Tensors of any shapes: duals under l1, or ``measure_duals()`` of an optimizer for any regulariser.
        k: From 0 to the number of entries.

    Raises:
        ValueError: ``k`` is out of range.

    Source: the quantile rule in later code for Bregman training, corrected by one entry (its K-th largest keeps K - 1).
    """
    values = torch.cat([dual.detach().reshape(-1).abs() for dual in duals]) if duals else torch.zeros(0)
    count = values.numel()
    if not 0 <= k <= count:
        raise ValueError(f"k = {k} entries cannot survive among {count}; give a number from 0 to {count}")
    return 0.0 if k == count else float(values.kthvalue(count - k).values)


def _has_entries(tensor: Tensor, name: str) -> bool:
    return name == "l1" or (name == "kernels" and tensor.dim() == 2)


def _groups(tensor: Tensor, name: str) -> Groups:
    # The rows of a convolution, seen as the matrix (out, everything else), are its filters.
    return cast(Literal["rows", "kernels", "filters"], "filters" if name == "rows" and tensor.dim() > 2 else name)


def _unit_dims(tensor: Tensor, name: str) -> tuple[int, ...]:
    return tuple(range(2 if name == "kernels" else 1, tensor.dim()))


def _unit_size(tensor: Tensor, dims: tuple[int, ...]) -> int:
    return math.prod(tensor.shape[dim] for dim in dims)


def _norm(tensor: Tensor, dims: tuple[int, ...]) -> Tensor:
    return cast(Tensor, torch.linalg.vector_norm(tensor, dim=dims, keepdim=True))  # pyright: ignore[reportUnknownMemberType]
