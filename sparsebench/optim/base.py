"""Base classes of optimizers with a regulariser per parameter group, with and without a dual variable.

The invariant of all dual optimizers: v - theta / delta is a sub-gradient of J at theta, that is theta = prox_{delta J}
(delta v). The weights are a function of the dual, so the next step undoes any edit of the weights alone; call
``reset_dual`` after an edit.
"""
# pyright: reportPrivateImportUsage=false, reportPrivateUsage=false
# torch exposes its list-wise kernels only under a leading underscore.

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, cast, get_args, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from sparsebench.runs.messages import did_you_mean

from .regularizer import (
    check_regularizer,
    find_initial_dual,
    find_lambda,
    find_subgradient,
    find_support,
    limit_units,
    measure_units,
    write_primal_,
)

Group = dict[str, Any]
Policy = Literal["keep", "reset", "shift"]

# Keys that torch and schedulers write into groups; any other unknown key that resembles one of ours is a typo.
FOREIGN_KEYS = {"params", "param_names", "name", "initial_lr", "lr_scale", "differentiable"}


class RegularizedOptimizer(Optimizer):
    """Check parameter groups and run closures; subclasses implement the update of a group in ``_update``.

    Keys of a group: ``lr``, ``regularizer``, ``lam``, ``lambda_scale`` (factor on ``lam`` in this group), ``delta``,
    ``weight_decay``, and keys of the subclass. All are plain numbers and strings, so that ``torch.load`` with
    ``weights_only=True`` reads a state dict.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        regularizer: str | None,
        lam: float | None,
        *,
        delta: float,
        weight_decay: float,
        lambda_scale: float,
        **own: Any,
    ):
        shared = {"lr": lr, "regularizer": regularizer, "lam": lam, "lambda_scale": lambda_scale, "delta": delta}
        super().__init__(params, {**shared, **own, "weight_decay": weight_decay})

    def add_param_group(self, param_group: Group) -> None:
        """Add a parameter group; raise ``ValueError`` if one of its values is out of range."""
        super().add_param_group(param_group)
        try:
            self._check_group(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Run the closure, if given, with gradients enabled, take one step, and return the closure's loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            self._advance()
        return loss

    def _advance(self) -> None:
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._update(group, parameters)

    def _update(self, group: Group, parameters: list[Tensor]) -> None:
        raise NotImplementedError

    def _check_group(self, group: Group) -> None:
        for key in group.keys() - self.defaults.keys() - FOREIGN_KEYS:
            hint = did_you_mean(key, self.defaults, at_most=2, cutoff=0.65)
            if hint:
                raise ValueError(f"parameter group key {key!r} is unknown{hint}")
        check_regularizer(group["regularizer"], group["params"])
        if group["lam"] is None:
            if group["regularizer"] is not None:
                raise ValueError(f"lam is required with regularizer {group['regularizer']!r}; give a number, 0 or more")
            group["lam"] = 0.0
        for key in ("lr", "lam", "lambda_scale", "weight_decay"):
            check_number(group, key)
        check_number(group, "delta", positive=True)


class DualOptimizer(RegularizedOptimizer):
    """Hold a dual variable v per tensor; subclasses implement how gradients move it in ``_descend``.

    The dual of a tensor is created at its first step from its weights at that time, v = theta / delta + p, so
    initialise and sparsify the weights before. Weight decay enters through the gradient, g + weight_decay * theta.
    """

    def reset_dual(self) -> None:
        """Recompute every dual variable from the current weights, after these were edited or loaded."""
        with torch.no_grad():
            for group, parameter in self._pairs():
                if "dual" in self.state[parameter]:
                    self.state[parameter]["dual"].copy_(find_initial_dual(parameter, group))

    def set_lambda(self, lam: float, policy: Policy = "keep") -> None:
        """Change lambda in every regularised group, and restore the invariant between duals and weights.

        Args:
            lam: The new strength, 0 or more; ``lambda_scale`` of a group still multiplies it.
            policy: ``keep``: duals stay, weights jump (by -delta * change * sign for l1). ``reset``: weights stay,
                duals are recomputed, inactive ones lose their progress. ``shift``: weights stay, active duals move by
                the change of their sub-gradient, inactive ones are cut to the new range.

        Raises:
            ValueError: ``lam`` is negative, or the policy unknown.
        """
        if policy not in get_args(Policy):
            raise ValueError(f"policy {policy!r} is unknown (allowed: {', '.join(get_args(Policy))})")
        check_number({"lam": lam}, "lam")
        with torch.no_grad():
            for group in self.param_groups:
                if group["regularizer"] is not None:
                    before = find_lambda(group)
                    group["lam"] = float(lam)
                    self._follow_lambda(group, find_lambda(group) - before, policy)

    def duals(self) -> dict[Tensor, Tensor]:
        """Return the dual variable of every tensor that has one: parameter -> tensor of the same shape."""
        return {p: self.state[p]["dual"] for _, p in self._pairs() if "dual" in self.state.get(p, {})}

    def measure_duals(self) -> list[Tensor]:
        """Return for every regularised unit the smallest lambda that makes it zero; feed to ``quantile_lambda``.

        The value is |v| for an entry under l1 and norm(v) / sqrt(size) for a group, both divided by ``lambda_scale``.
        """
        with torch.no_grad():
            return [
                self._measure_dual(group, parameter)
                for group, parameter in self._pairs()
                if group["regularizer"] is not None and group["lambda_scale"] > 0
            ]

    def _advance(self) -> None:
        self._prepare()
        super()._advance()

    def _prepare(self) -> None:
        if not any("dual" in self.state.get(parameter, {}) for _, parameter in self._pairs()):
            refuse_empty_start(self.param_groups)

    def _update(self, group: Group, parameters: list[Tensor]) -> None:
        for parameter in parameters:
            if "dual" not in self.state[parameter]:
                self._create_state(group, parameter)
        duals = [self.state[parameter]["dual"] for parameter in parameters]
        self._descend(group, parameters, couple_gradients(group, parameters))
        write_primal_(parameters, duals, group)

    def _create_state(self, group: Group, parameter: Tensor) -> None:
        self.state[parameter]["dual"] = find_initial_dual(parameter, group)

    def _descend(self, group: Group, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        raise NotImplementedError

    def _moments(self, group: Group) -> tuple[str, ...]:
        """Return the names of the moments that ``_descend`` keeps, all of the parameter's shape."""
        raise NotImplementedError

    def _follow_lambda(self, group: Group, change: float, policy: Policy) -> None:
        name = group["regularizer"]
        parameters = [parameter for parameter in group["params"] if "dual" in self.state.get(parameter, {})]
        duals = [self.state[parameter]["dual"] for parameter in parameters]
        if policy == "keep" and parameters:
            write_primal_(parameters, duals, group)
        for parameter, dual in zip(parameters, duals, strict=True):
            if policy == "reset":
                dual.copy_(find_initial_dual(parameter, group))
            elif policy == "shift":
                active = dual.add(find_subgradient(parameter, name), alpha=change)
                inactive = limit_units(dual, find_lambda(group), name)
                dual.copy_(torch.where(find_support(parameter, name), active, inactive))

    def _measure_dual(self, group: Group, parameter: Tensor) -> Tensor:
        state = self.state.get(parameter, {})
        dual = state["dual"] if "dual" in state else find_initial_dual(parameter, group)
        size = measure_units(dual, group["regularizer"])
        if group["regularizer"] == "l1" and group["lambda_scale"] == 1.0:
            return size
        # lambda goes through a product and a root: rounding it up slightly keeps the unit that defines it at zero.
        return size / group["lambda_scale"] * (1.0 + 4.0 * torch.finfo(size.dtype).eps)

    def _pairs(self) -> Iterator[tuple[Group, Tensor]]:
        return ((group, parameter) for group in self.param_groups for parameter in group["params"])


def couple_gradients(group: Group, parameters: list[Tensor]) -> list[Tensor]:
    """Return the gradients plus weight decay times the weights."""
    gradients = [cast(Tensor, parameter.grad) for parameter in parameters]
    if any(gradient.is_sparse for gradient in gradients):
        raise ValueError("gradients must be dense tensors; make the embedding with sparse=False")
    if group["weight_decay"] == 0.0:
        return gradients
    return list(torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))


def refuse_empty_start(groups: Sequence[Group]) -> None:
    """Raise ``ValueError`` if all regularised tensors are zero, because gradients vanish there."""
    tensors = [parameter for group in groups if find_lambda(group) > 0 for parameter in group["params"]]
    if tensors and not any(bool((tensor != 0).any()) for tensor in tensors):
        raise ValueError(
            f"all {len(tensors)} regularised tensors are zero at the first step, so no weight would leave zero; "
            "start from a sparse initialisation (a few entries per tensor non-zero)"
        )


def check_number(group: Group, key: str, *, positive: bool = False, below: float = math.inf) -> None:
    """Convert a value of a group to a plain float, or raise ``ValueError`` if it is out of range."""
    value = group[key]
    bound = "above 0" if positive else "0 or more"
    limit = "finite" if below == math.inf else f"below {below:g}"
    message = f"{key} {value!r} must be a number, {bound} and {limit}"
    if isinstance(value, (str, bytes, bool, Tensor)):
        raise ValueError(message)
    try:
        number = float(value)
    except TypeError:
        raise ValueError(message) from None
    if not 0.0 <= number < below or (positive and number == 0.0):
        raise ValueError(message)
    group[key] = number
