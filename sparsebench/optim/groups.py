"""Parameter groups for weight decay, and several optimizers that step as one."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase  # pyright: ignore[reportPrivateUsage]
from torch.optim import Optimizer

from .regularizer import LEAST_RANK

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def decay_groups(module: nn.Module, weight_decay: float, *, decay_norm_and_bias: bool = False) -> list[dict[str, Any]]:
    """Split the trainable parameters into one group with weight decay and one without.

    Parameters of normalisation layers (by module type) and parameters with fewer than two dimensions (biases, and
    scales of other layers) get no decay. Names do not matter. A shared parameter is listed once.

    Args:
        module: Network whose parameters are split; frozen parameters are left out.
        weight_decay: 0 or more.
        decay_norm_and_bias: Put every parameter into the group with decay.

    Returns:
        Dictionaries with ``params`` and ``weight_decay``; empty groups are left out.

    Raises:
        ValueError: ``weight_decay`` is negative, or nothing is trainable.
    """
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay {weight_decay} must be 0 or more")
    decayed: list[Tensor] = []
    exempt: list[Tensor] = []
    exempt_ids: set[int] = set()
    if not decay_norm_and_bias:
        norms = [child for child in module.modules() if isinstance(child, NORMS)]
        exempt_ids = {id(parameter) for norm in norms for parameter in norm.parameters(recurse=False)}
        exempt_ids |= {id(parameter) for parameter in module.parameters() if parameter.dim() < 2}
    for parameter in module.parameters():
        if parameter.requires_grad:
            (exempt if id(parameter) in exempt_ids else decayed).append(parameter)
    if not decayed and not exempt:
        raise ValueError(
            f"{type(module).__name__} has no trainable parameter; unfreeze at least one before making groups"
        )
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": exempt, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def regularized_groups(
    module: nn.Module,
    names: Collection[str],
    *,
    regularizer: str | None = "l1",
    weight_decay: float = 0.0,
    decay_norm_and_bias: bool = True,
) -> list[dict[str, Any]]:
    """Split the trainable parameters into regularised and other ones, each with and without weight decay.

    The optimizer's own ``regularizer`` and ``lam`` then apply to the named parameters only; all others get the
    regularizer None and are trained by the same rule without it.

    Args:
        module: Network whose parameters are split.
        names: Full names of the parameters to regularise: those that may be sparse.
        regularizer: The optimizer's regulariser, used to check the shapes.
        weight_decay: As for ``decay_groups``.
        decay_norm_and_bias: As for ``decay_groups``.

    Raises:
        ValueError: a name is not a parameter, or a named tensor has too few dimensions for the regulariser.
    """
    chosen = {id(parameter) for parameter in _regularizable(module, names, regularizer)}
    regularized: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for group in decay_groups(module, weight_decay, decay_norm_and_bias=decay_norm_and_bias):
        inside = [parameter for parameter in group["params"] if id(parameter) in chosen]
        outside = [parameter for parameter in group["params"] if id(parameter) not in chosen]
        regularized += [{**group, "params": inside}] if inside else []
        others += [{**group, "params": outside, "regularizer": None}] if outside else []
    return [*regularized, *others]


def _regularizable(module: nn.Module, names: Collection[str], regularizer: str | None) -> list[nn.Parameter]:
    """Return the named parameters; raise ``ValueError`` for one that is missing or does not fit the regulariser."""
    named = dict(module.named_parameters())
    least = LEAST_RANK.get(regularizer or "l1", 0)
    for name in names:
        if name not in named:
            raise ValueError(f"{name!r} is not a parameter of {type(module).__name__}; use names of named_parameters()")
        if named[name].dim() < least:
            raise ValueError(
                f"regularizer {regularizer!r} needs tensors of {least} or more dimensions, but {name!r} has shape "
                f"{tuple(named[name].shape)}; choose another regularizer, or leave {name!r} dense"
            )
    return [named[name] for name in names]


class Together(Optimizer):
    """Step several optimizers as one, for example one for weights and one for scores trained with them.

    Parameter groups and state are shared, not copied: schedulers, gradient scalers and checkpoints see one ordinary
    optimizer. The closure runs once, then the optimizers step in the order given. Do not use the optimizers on their
    own afterwards: their ``state_dict`` is no longer valid.

    Args:
        optimizers: One or more optimizers whose parameters do not overlap.

    Raises:
        ValueError: there is no optimizer, or a parameter belongs to two.
    """

    def __init__(self, optimizers: Sequence[Optimizer]):
        if not optimizers:
            raise ValueError("Together needs at least one optimizer, got none")
        self.optimizers: list[Optimizer] = []
        super().__init__([group for optimizer in optimizers for group in optimizer.param_groups], {})
        self.optimizers = list(optimizers)
        for optimizer in optimizers:
            self.state.update(optimizer.state)
            optimizer.state = self.state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Raise an error: it is unknown which optimizer should receive the group."""
        if self.optimizers:
            raise ValueError(
                "Together cannot know which optimizer gets the group; add it to one optimizer before joining them"
            )
        super().add_param_group(param_group)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Run the closure once, if given, step every optimizer, and return the closure's loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "optimizers": self.optimizers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        start = 0
        for optimizer in self.optimizers:
            stop = start + len(optimizer.param_groups)
            # The optimizer's own __setstate__ may repair values that loading changed.
            optimizer.__setstate__({"state": self.state, "param_groups": self.param_groups[start:stop]})
            start = stop
