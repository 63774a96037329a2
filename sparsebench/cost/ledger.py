"""The cost of training, summed over the optimizer steps actually taken: dense, active and executed."""

from collections.abc import Mapping, Sequence
from typing import Any

from sparsebench.cost.flops import FLOPS_PER_MAC, LayerCost, active_macs, dense_macs
from sparsebench.cost.passes import Passes, Share

_KINDS = ("dense", "executed", "forward", "input", "weight", "start")


class Ledger:
    """Sum the cost of training in whole MACs, so that totals are exact in any order and after any resumption.

    A product of two activations has no weights to skip: it counts in full in each pass, and its "weight" pass is the
    gradient with respect to its second operand.

    Args:
        costs: the result of ``layer_costs``: one forward pass of one sample.

    Attributes:
        samples: samples seen, over all ranks and micro-batches.
        steps: optimizer steps charged.
    """

    def __init__(self, costs: Sequence[LayerCost]) -> None:
        self._costs = tuple(costs)
        self._sample_macs = dense_macs(costs)
        self.reset()
        self._densities: dict[str, float] = {}
        self._active: int = self._sample_macs

    def reset(self) -> None:
        """Reset all totals to zero."""
        self._macs: dict[str, int] = dict.fromkeys(_KINDS, 0)
        self.samples = 0
        self.steps = 0

    def charge(
        self, passes: Passes, densities: Mapping[str, float], samples: int, *, executed: Passes | None = None
    ) -> None:
        """Add the cost of one optimizer step.

        Args:
            passes: which weights the passes of the step need.
            densities: share of active weights by parameter name during the step; 1 where missing.
            samples: samples of the step, over all ranks and micro-batches.
            executed: the passes that the back end really runs; by default dense products, with every weight in each
                pass.
        """
        if self._densities != densities:
            self._densities = dict(densities)
            self._active = active_macs(self._costs, self._densities)
        forward, backward, weight = (samples * self._sum(s) for s in (passes.forward, passes.input, passes.weight))
        run = passes.forward + passes.input + passes.weight
        if executed is None:
            done = samples * self._sample_macs * len(run)
        else:
            done = samples * self._sum(executed.forward + executed.input + executed.weight)
        assert done >= forward + backward + weight, "a back end cannot multiply less than the active weights"
        self._macs["forward"] += forward
        self._macs["input"] += backward
        self._macs["weight"] += weight
        self._macs["executed"] += done
        self._macs["dense"] += 3 * samples * self._sample_macs
        self.samples += samples
        self.steps += 1

    def charge_start(self, *, forward: float = 0, backward: float = 0, samples: int) -> None:
        """Add work done before the first step, for example scoring; ratios ignore it.

        Args:
            forward: dense forward passes of each sample.
            backward: dense backward passes of each sample, at two forward passes each; a Hessian-gradient product
                is a second forward and backward.
            samples: number of samples that were scored.
        """
        self._macs["start"] += round((forward + 2 * backward) * samples * self._sample_macs)

    def _sum(self, shares: Sequence[Share]) -> int:
        return sum(self._per_sample(share) for share in shares)

    def _per_sample(self, share: Share) -> int:
        if share == "dense":
            return self._sample_macs
        return self._active if isinstance(share, str) else active_macs(self._costs, share)

    # -- reading ------------------------------------------------------------------------------------------------

    @property
    def train_flops_dense(self) -> int:
        """FLOPs of training the dense network on the same samples: three forward passes each."""
        return FLOPS_PER_MAC * self._macs["dense"]

    @property
    def pass_flops(self) -> dict[str, int]:
        """FLOPs spent on active weights by pass: ``forward``, ``input`` gradient and ``weight`` gradient."""
        return {kind: FLOPS_PER_MAC * self._macs[kind] for kind in ("forward", "input", "weight")}

    @property
    def train_flops(self) -> int:
        """FLOPs of training on an ideal machine, where each pass computes only with the weights that it needs."""
        return sum(self.pass_flops.values())

    @property
    def executed_flops(self) -> int:
        """FLOPs that the back end really executed."""
        return FLOPS_PER_MAC * self._macs["executed"]

    @property
    def start_flops(self) -> int:
        """FLOPs spent before the first step; ratios ignore them."""
        return FLOPS_PER_MAC * self._macs["start"]

    @property
    def train_flops_ratio(self) -> float:
        """``train_flops`` relative to dense training on the same samples; nan before the first step."""
        return _ratio(self.train_flops, self.train_flops_dense)

    @property
    def executed_flops_ratio(self) -> float:
        """``executed_flops`` relative to dense training on the same samples; nan before the first step.

        Masked dense training of one network reads exactly 1.
        """
        return _ratio(self.executed_flops, self.train_flops_dense)

    @property
    def figures(self) -> dict[str, int | float]:
        """All totals and ratios under their names in ``result.json``."""
        return {
            "train_flops": self.train_flops,
            "train_flops_ratio": self.train_flops_ratio,
            "train_flops_dense": self.train_flops_dense,
            "executed_flops": self.executed_flops,
            "executed_flops_ratio": self.executed_flops_ratio,
            "start_flops": self.start_flops,
        }

    # -- saving ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the totals as plain integers: MACs by kind, samples and steps."""
        return {**self._macs, "samples": self.samples, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the totals that ``state_dict`` returned."""
        missing = [name for name in (*_KINDS, "samples", "steps") if name not in state]
        if missing:
            raise ValueError(f"ledger state lacks {', '.join(missing)}: pass the result of Ledger.state_dict")
        self._macs = {name: int(state[name]) for name in _KINDS}
        self.samples, self.steps = int(state["samples"]), int(state["steps"])


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
