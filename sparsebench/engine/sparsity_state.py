"""State of the ``Sparsity`` callback: its inputs, its public attributes, and its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
from torch import Tensor

from sparsebench.cost.ledger import Ledger
from sparsebench.cost.passes import Passes
from sparsebench.engine.stepping import Stepping
from sparsebench.engine.target import check_resumption, identify, is_reached, summarize
from sparsebench.execution.backends import Execution
from sparsebench.methods.arguments import check_method, shown
from sparsebench.methods.base import Clock, Method
from sparsebench.methods.executor import Executor
from sparsebench.sparse import Prunable, SparseModel


class SparsityState(L.Callback):
    """State of ``Sparsity`` between hooks; see ``Sparsity`` for arguments and attributes."""

    def __init__(
        self,
        method: Method,
        *,
        prunable: Prunable | None = None,
        seed: int = 0,
        module: str = "",
        total_steps: int | None = None,
        ledger: Ledger | None = None,
        masks: Mapping[str, Tensor] | None = None,
        execution: Execution | None = None,
    ) -> None:
        check_method(method)
        if total_steps is not None and total_steps < 1:
            raise ValueError(f"Sparsity(total_steps={total_steps}) is impossible: give 1 optimizer step or more")
        self.method = method
        self.prunable = prunable or Prunable()
        self.seed = seed
        self.module = module
        self.total_steps = self._given_steps = total_steps
        self.ledger = ledger
        self.masks = masks
        self.execution = execution
        self.step = 0
        self.finished = False
        self._net: SparseModel | None = None
        self._executor: Executor
        self._stage = ""
        self._begun = False
        self._resumed = False
        self._before = 0
        self._samples = 0
        self._pending: tuple[Passes, dict[str, float], Passes | None] | None = None
        self._agreed = -1
        self._stepping: Stepping | None = None

    # -- reading -----------------------------------------------------------------------------------------

    @property
    def net(self) -> SparseModel:
        """The sparse state; exists after ``setup``."""
        if self._net is None:
            raise RuntimeError("the sparse state does not exist yet: it is created when fit starts")
        return self._net

    @property
    def clock(self) -> Clock:
        """Clock of the fit: steps taken and budget."""
        assert self.total_steps is not None
        return Clock(self.step, self.total_steps)

    @property
    def target_reached(self) -> bool:
        """Whether as many weights are active as the method promised for the end; True without a promise."""
        return self._net is None or is_reached(self.method, self._net)

    @property
    def routes(self) -> bool:
        """Whether training computes its loss with other weights than the parameters, or by a back end."""
        return self._net is not None and self._executor.routes

    def summary(self) -> str:
        """Return a table of the layers that may be sparse: shape, active weights and sparsity of each."""
        return summarize(self.net)

    def __repr__(self) -> str:
        state = "not started" if self._net is None else f"step {self.step}, sparsity {1 - self._net.density:.4f}"
        return f"Sparsity({shown(self.method)}; {state})"

    # -- saving ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return clock, sparse state and ledger, with the identity of their method."""
        return {
            "step": self.step,
            "finished": self.finished,
            "begun": self._begun,
            "before": self._before,
            "method": identify(self.method),
            "net": {} if self._net is None else self._net.state_dict(),
            "ledger": None if self.ledger is None else self.ledger.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state that ``state_dict`` returned; ``start`` is not called again if it was called before."""
        if self._stage == "fit":
            check_resumption(state_dict.get("method", {}), self.method)
        self.step, self.finished = state_dict["step"], state_dict["finished"]
        self._begun = self._resumed = state_dict.get("begun", True) and bool(state_dict["net"])
        self._before = state_dict.get("before", 0)
        if state_dict["net"]:
            self.net.load_state_dict(state_dict["net"])
        if self.ledger is not None and state_dict["ledger"] is not None:
            self.ledger.load_state_dict(state_dict["ledger"])
