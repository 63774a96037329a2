"""Detect the beginning and the end of each step of the sparse parameters, for any number of optimizers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
from torch import Tensor
from torch.optim import Optimizer

from sparsebench.sparse import SparseModel

ELEMENTWISE = {
    "SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta", "Lion", "Together",
}  # fmt: skip
"""Optimizers that keep a weight at zero while gradient and moments are zero; others need masking after the step."""


def is_elementwise(optimizer: Optimizer) -> bool:
    """Return True if an optimizer, or each of several, keeps zeros that have no gradient and no moments."""
    parts = optimizer.optimizers if isinstance(optimizer, Joined) else [optimizer]
    return all(type(part).__name__ in ELEMENTWISE for part in parts)


def find_holders(trainer: L.Trainer, net: SparseModel) -> list[Optimizer]:
    """Return the optimizers that hold the sparse parameters, ignoring the trainer's others.

    Raises:
        ValueError: some of them are in no optimizer, so they would be pruned and counted but never trained.
    """
    sparse = {id(parameter) for parameter in net.params.values()}
    held = {id(p): optimizer for optimizer in trainer.optimizers for p in _parameters(optimizer) if id(p) in sparse}
    idle = [name for name, parameter in net.params.items() if id(parameter) not in held]
    if idle:
        raise ValueError(
            f"the optimizer does not hold {', '.join(idle[:4])}{' and others' if len(idle) > 4 else ''}, which may be "
            f"sparse: give it these parameters, or leave them dense with requires_grad_(False) or exclude={idle[:4]}"
        )
    return [optimizer for optimizer in trainer.optimizers if any(optimizer is holder for holder in held.values())]


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


class Joined(Optimizer):
    """Several optimizers presented to methods as one: all their groups, and the state of each parameter."""

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.optimizers = list(optimizers)
        self.defaults: dict[str, Any] = {}

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The parameter groups of all optimizers."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    @property
    def state(self) -> dict[Any, Any]:  # type: ignore[override]
        """The state of all optimizers; its entries are the optimizers' own."""
        return defaultdict(dict, {p: found for optimizer in self.optimizers for p, found in optimizer.state.items()})


class Stepping:
    """Report the beginning and the end of each step; optimizer hooks detect steps that are not announced.

    Lightning announces a step once its gradients are complete. It does not announce steps of the raw optimizers of
    manual optimization (``self.optimizers(use_pl_optimizer=False)``), so these have an optimizer hook. If several
    optimizers hold sparse parameters, the step begins with the first and ends with the last.

    Args:
        optimizers: the optimizers that hold sparse parameters.
        begin: called when gradients are complete, before any optimizer steps.
        end: called when all optimizers have stepped.
        listens: () -> whether to report steps now; a tuner runs its own steps in between.
    """

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        *,
        begin: Callable[[Optimizer], None],
        end: Callable[[Optimizer], None],
        listens: Callable[[], bool],
    ) -> None:
        self.optimizers = list(optimizers)
        self.optimizer = self.optimizers[0] if len(self.optimizers) == 1 else Joined(self.optimizers)
        self._begin, self._end, self._listens = begin, end, listens
        self._announced: set[int] = set()
        self._moved: set[int] = set()
        self._depth: Counter[int] = Counter()  # a step may call the step of its parent class, which has hooks too
        self._hooks = [optimizer.register_step_pre_hook(self._before) for optimizer in self.optimizers]
        self._hooks += [optimizer.register_step_post_hook(self._after) for optimizer in self.optimizers]

    def announce(self, optimizer: Optimizer) -> None:
        """Begin a step unless another optimizer has begun it; a closure may be evaluated several times.

        Raises:
            ValueError: the optimizers that share the sparse parameters do not take turns.
        """
        if not any(optimizer is known for known in self.optimizers):
            return
        if id(optimizer) in self._moved:
            names = " and ".join(type(known).__name__ for known in self.optimizers)
            raise ValueError(
                f"{names} hold sparse parameters and must take turns, one step each: {type(optimizer).__name__} steps "
                f"twice; give all sparse parameters to one of them, or leave those of the others dense "
                f"(Prunable(exclude=...))"
            )
        if not self._announced or id(optimizer) in self._announced:
            self._begin(self.optimizer)
        self._announced.add(id(optimizer))

    def _before(self, optimizer: Optimizer, arguments: Any, options: Any) -> None:
        self._depth[id(optimizer)] += 1
        closure = options.get("closure") or next((a for a in arguments if callable(a)), None)
        # with a closure, gradients do not exist yet: Lightning owns it and announces them once they do
        if closure is None and id(optimizer) not in self._announced and self._listens():
            self.announce(optimizer)

    def _after(self, optimizer: Optimizer, *_: Any) -> None:
        self._depth[id(optimizer)] -= 1
        if self._depth[id(optimizer)] > 0 or not self._listens():
            return
        if id(optimizer) not in self._announced:
            raise ValueError(
                f"{type(optimizer).__name__}.step(closure) was called outside of Lightning, so it is unknown when "
                f"gradients are complete: call step() after backward, or use self.optimizers() without arguments"
            )
        self._moved.add(id(optimizer))
        if len(self._moved) == len(self.optimizers):
            self._announced.clear()
            self._moved.clear()
            self._end(self.optimizer)

    def stop(self) -> None:
        """Remove the hooks from the optimizers."""
        for hook in self._hooks:
            hook.remove()
