"""A method combined with the back end that runs its network: loss, view and cost for a training loop."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsebench.cost.passes import Passes
from sparsebench.execution import Runtime
from sparsebench.execution.backends import Execution
from sparsebench.execution.runtime import module_of, store
from sparsebench.methods.base import Clock, Method, Objective
from sparsebench.sparse.model import SparseModel


class Executor:
    """Provide loss, view and cost of a method whose network is run by a back end, and pass through all other methods.

    A method that runs its networks itself, with masks that it draws, gets the back end in ``net.runtime``.

    Args:
        method: what differs from dense training.
        net: the sparse model; its ``runtime`` is set.
        execution: how the network is computed: a name from ``execution.backends``, or a callable that builds a back
            end; None lets the method decide.

    Raises:
        ValueError: the back end does not exist, or does not support this method.
    """

    def __init__(self, method: Method, net: SparseModel, execution: Execution | None = None) -> None:
        self.method, self.net = method, net
        self._own = type(method).loss is not Method.loss or type(method).view is not Method.view
        self._checked = False
        if execution is not None:
            net.runtime = Runtime(method.backend(net, execution))

    @property
    def routes(self) -> bool:
        """True when the loss or the view differs from the plain module."""
        return self._own or self.net.runtime is not None

    @property
    def counts(self) -> bool:
        """True when the back end's network determines the cost of a step, instead of the method's statement."""
        return self._runtime is not None and not self._runtime.backend.stored_zeros

    @property
    def _runtime(self) -> Runtime | None:
        """The runtime that provides loss and cost once masks exist."""
        return None if self._own or not self.net.masks else self.net.runtime

    def loss(self, objective: Objective, clock: Clock) -> Tensor:
        """Return the loss to differentiate in the step at ``clock``."""
        if self._runtime is None or self._dense(clock):
            return self.method.loss(self.net, objective)
        return self._runtime.loss(self.net, objective)

    def view(self) -> dict[str, Tensor]:
        """Return the weights that evaluation uses in place of the parameters."""
        return self.method.view(self.net) if self._runtime is None else self._runtime.view(self.net)

    def passes(self, clock: Clock) -> Passes:
        """Return the weights needed in the step at ``clock``; for channels, as rows and columns."""
        if self._runtime is None or not self.counts:
            return self.method.passes(self.net, clock)
        return self._runtime.passes(self.net)

    def executed(self, clock: Clock) -> Passes | None:
        """Return the weights really used in products of this step; None if the network runs at full size."""
        if self._runtime is None:
            return self.method.executed(self.net, clock)
        if self._runtime.backend.full_size or self._dense(clock):
            return None
        return self._runtime.passes(self.net, executed=True)

    def cost(self, clock: Clock) -> tuple[Passes, dict[str, float], Passes | None]:
        """Return the inputs of the ledger for the step at ``clock``: passes, densities and executed passes.

        Raises:
            ValueError: see ``check``.
        """
        self.check(clock)
        return self.passes(clock), self.net.densities, self.executed(clock)

    def check(self, clock: Clock) -> None:
        """Raise an error for a method that needs gradients its back end does not have; checked once.

        Raises:
            ValueError: the method needs dense gradients at this step or a later one.
        """
        if self._checked or self._runtime is None:
            return
        self._checked = True
        if self._runtime.backend.stored_zeros:
            return
        if any(self._dense(Clock(step, clock.total)) for step in range(clock.step, clock.total)):
            raise ValueError(
                f"{type(self.method).__name__} needs the gradients of dead channels, which a small network does not "
                f"compute: choose a method that does not (set, static, gmp, magnitude, vr_pge), or leave execution=null"
            )

    def _dense(self, clock: Clock) -> bool:
        return "dense" in self.method.passes(self.net, clock).weight

    @torch.no_grad()
    def finish(self) -> None:
        """Fix random or soft masks of the method, and store zeros for everything that belongs to dead units."""
        self.method.finish(self.net)
        if self._runtime is not None:
            store(module_of(self.net), self._runtime.view(self.net))
