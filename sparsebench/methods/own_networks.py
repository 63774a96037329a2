"""Methods that run the network themselves, with new masks in each step."""

from __future__ import annotations

from dataclasses import dataclass

from sparsebench.execution import Backend, Runtime, WeightNetwork
from sparsebench.execution.backends import Execution
from sparsebench.methods.base import Method
from sparsebench.sparse.model import SparseModel


@dataclass(frozen=True, kw_only=True)
class OwnNetworks(Method):
    """A method whose loss runs the network one or more times, each time with masks of the method."""

    def backend(self, net: SparseModel, execution: Execution = "masked") -> Backend:
        """Build the back end that runs the network with drawn masks."""
        if callable(execution):
            return execution(net)
        if execution != "masked":
            raise ValueError(f"{type(self).__name__} runs at full size only: leave execution=null")
        return WeightNetwork(net)

    def runtime(self, net: SparseModel) -> Runtime:
        """Return how the model runs in this process: by the engine's argument, otherwise by the method's setting."""
        if net.runtime is None:
            net.runtime = Runtime(self.backend(net))
        return net.runtime

    def network(self, net: SparseModel) -> Backend:
        """Return the back end of the network with masks, built once."""
        return self.runtime(net).backend

    def next_draw(self, net: SparseModel) -> tuple[int, int]:
        """Return the numbers of the step and of its micro-batch, which seed the next draw."""
        runtime = self.runtime(net)
        runtime.micro += 1
        return int(net.memory["time"]["step"]) if "time" in net.memory else 0, runtime.micro - 1
