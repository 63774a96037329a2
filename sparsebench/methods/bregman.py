"""Training by Bregman iterations: a sparse start, then the optimizer's regulariser selects the active weights.

The update formulas are optimizers (``sparsebench.optim``); the methods initialise the network, control lambda, keep
masks equal to the support, and state the cost of a step. The weights are a function of the duals, so no method here
edits them once training has begun.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch.optim import Optimizer

from sparsebench.cost.passes import SPARSE, SPARSE_DENSE_WEIGHT, Passes
from sparsebench.functional.distribution import uniform
from sparsebench.methods.base import Clock, Distribution, Probe
from sparsebench.methods.lambda_control import LambdaControlled
from sparsebench.methods.sparse_start import draw_positive_, draw_units
from sparsebench.optim import Multilevel, ProxSGD
from sparsebench.optim.base import DualOptimizer
from sparsebench.optim.multilevel import Criterion, Phase
from sparsebench.optim.regularizer import check_regularizer, find_support
from sparsebench.sparse.model import SparseModel

BiasInit = Literal["positive_uniform"]


@dataclass(frozen=True, kw_only=True)
class Bregman(LambdaControlled):
    """Train with LinBreg or AdaBreg from a sparse start (Bungert, Roith, Tenbrinck, Burger 2022).

    The forward pass and the input gradient need the non-zero weights only. The weight gradient is dense, because the
    duals of zero weights move too.

    Args:
        init_density: share of the units that start non-zero, counted exactly in each layer, at least one; None keeps
            the given weights.
        init_gain: factor on the kept weights; ``auto`` is 1 / sqrt(kept share), which preserves the layer's variance.
        bias_init: ``positive_uniform`` draws the biases of sparse layers from (0, 1 / sqrt(fan_in)], so that units
            without weights pass a signal; None keeps the biases. Norms are never changed.
        distribution: how ``init_density`` is divided over layers; in the paper it is the same for each.
        units: groups of weights that are zero together, named as the optimizer's ``regularizer``.
        measure_every: steps between measurements of the support, which masks, exploration and cost follow; 1 is exact
            and slower.
    """

    paper: ClassVar[str] = "linbreg"
    zeros: ClassVar[str] = "computed"
    exceptions: ClassVar[Mapping[str, str]] = {
        "zeros": "the optimizer makes the zeros: a dual that passes lambda revives its weight, as the method intends",
        "growth": "a weight that enters the support takes the value that its dual gives it",
    }

    init_density: float | None = 0.1
    init_gain: float | Literal["auto"] = "auto"
    bias_init: BiasInit | None = "positive_uniform"
    distribution: Distribution = uniform
    units: str | None = "l1"
    measure_every: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_regularizer(self.units, ())
        if self.init_density is not None and not 0 < self.init_density <= 1:
            raise ValueError(
                f"init_density {self.init_density:g} is impossible: choose above 0 (a network that starts at all zeros "
                f"never leaves zero) and at most 1 (dense start)"
            )
        if self.init_gain != "auto" and (isinstance(self.init_gain, str) or not 0 < self.init_gain < math.inf):
            raise ValueError(f"init_gain={self.init_gain} is impossible: choose auto or a number above 0")
        if self.bias_init not in (None, *get_args(BiasInit)):
            raise ValueError(f"bias_init={self.bias_init} is unknown: choose positive_uniform or null")
        if self.measure_every < 1:
            raise ValueError(f"measure_every={self.measure_every} is impossible: choose a number of steps, at least 1")

    @property
    def first_density(self) -> float:
        """Density at the start of a ramp, equal to the initial density."""
        return 1.0 if self.init_density is None else self.init_density

    def promised(self, net: SparseModel) -> int | None:
        """Return the number of weights under the quantile rule; otherwise the support results from training."""
        if self.control != "quantile" or self.density is None or self.units not in (None, "l1"):
            return None
        return round(self.density * sum(p.numel() for p in net.params.values()))

    # -- start ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def start(self, net: SparseModel, probe: Probe) -> None:
        """Sparsify the weights, rescale them, draw positive biases; masks are the support."""
        if self.init_density is None:
            self.mirror(net)
            return
        masks, shares = draw_units(net, self.distribution(net.shapes, self.init_density), self.units)
        net.set_masks(masks)
        for name, parameter in net.params.items():
            gain = shares[name] ** -0.5 if self.init_gain == "auto" else float(self.init_gain)
            if gain != 1.0:
                parameter.mul_(gain)
            bias = probe.parameters.get(f"{name.removesuffix('weight')}bias")
            if self.bias_init is not None and name.endswith("weight") and bias is not None:
                draw_positive_(bias, parameter[0].numel(), net.generator("start", "bias", name))

    # -- a step ---------------------------------------------------------------------------------------------------

    def before_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Update lambda if controlled. Gradients stay dense: the duals of zero weights move."""
        self.check_optimizer(optimizer)
        self.steer(net, clock, optimizer)

    def after_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Enforce the target, if any, and measure the support at intervals and at the end."""
        changed = self.meet(net, clock, optimizer)
        if changed or clock.step % self.measure_every == 0 or clock.step == clock.total:
            self.mirror(net)

    @torch.no_grad()
    def mirror(self, net: SparseModel) -> None:
        """Set the masks to the support of the weights, changing neither weights nor duals."""
        units = self.units or "l1"
        net.set_masks({name: find_support(p.detach(), units) for name, p in net.params.items()}, clear=False)

    def finish(self, net: SparseModel) -> None:
        """Set the masks to the exact support of the weights."""
        self.mirror(net)

    def passes(self, net: SparseModel, clock: Clock) -> Passes:
        """Return sparse passes except for a dense weight gradient."""
        del net, clock
        return SPARSE_DENSE_WEIGHT

    def check_optimizer(self, optimizer: Optimizer) -> None:
        """Raise an error for an optimizer that does not fit this method.

        Raises:
            ValueError: the optimizer does not fit; the message names the right one.
        """
        if not isinstance(optimizer, DualOptimizer) or isinstance(optimizer, Multilevel):
            refuse(self, optimizer, "LinBreg or AdaBreg (optimizer=linbreg or adabreg)")
        check_units(optimizer, self.units)


@dataclass(frozen=True, kw_only=True)
class MultilevelBregman(Bregman):
    """Train with ML LinBreg: m steps on the non-zero weights, then one step on all (Lunk, Scott, Bungert 2026).

    In the coarse steps all three passes are sparse, which is where the savings come from. Masks are the active weights
    of a coarse phase: they are read after each fine step and hold until the next one.

    Args:
        init_gain: as in ``Bregman``; 1 by default, which keeps the initial scale of the weights.
        coarse_steps: m, equal to the optimizer's; 0 is ``Bregman``.
        start_with: phase of the first step, equal to the optimizer's.
        criterion: when a coarse phase may follow a fine step, equal to the optimizer's.
    """

    paper: ClassVar[str] = "ml_linbreg"

    init_gain: float | Literal["auto"] = 1.0
    coarse_steps: int = 99
    start_with: Phase = "coarse"
    criterion: Criterion = "fixed"

    def before_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Update lambda if controlled, only before a fine step: a coarse phase does not move all duals."""
        self.check_optimizer(optimizer)
        if self.is_fine(net, clock):
            self.steer(net, clock, optimizer, period=self.coarse_steps + 1)

    def after_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """After a fine step, enforce the target and set the next level; at the end, set the final support."""
        was_fine = self.is_fine(net, Clock(clock.step - 1, clock.total))
        if was_fine or clock.step == clock.total:
            self.meet(net, clock, optimizer, period=self.coarse_steps + 1)
            self.mirror(net)
        if self.criterion != "fixed":
            fine = getattr(optimizer, "next_phase", self.start_with) == "fine"
            net.memory["cycle"] = {"next_is_fine": torch.tensor(fine)}

    def is_fine(self, net: SparseModel, clock: Clock) -> bool:
        """Return True if the step at ``clock`` moves all duals, by the clock or as the optimizer announced."""
        if self.coarse_steps == 0:
            return True
        if self.criterion == "fixed":
            return clock.step % (self.coarse_steps + 1) == (self.coarse_steps if self.start_with == "coarse" else 0)
        announced = net.memory.get("cycle", {}).get("next_is_fine")
        return self.start_with == "fine" if announced is None else bool(announced)

    def passes(self, net: SparseModel, clock: Clock) -> Passes:
        """All passes of a coarse step are sparse; in a fine step the weight gradient is dense."""
        return SPARSE_DENSE_WEIGHT if self.is_fine(net, clock) else SPARSE

    def check_optimizer(self, optimizer: Optimizer) -> None:
        """Raise an error for an optimizer with other levels, or without levels.

        Raises:
            ValueError: the optimizer does not fit; the message names the right one.
        """
        if not isinstance(optimizer, Multilevel):
            refuse(self, optimizer, "MLLinBreg or MLAdaBreg (optimizer=ml_linbreg or ml_adabreg)")
        for key in ("coarse_steps", "start_with", "criterion"):
            if optimizer.param_groups[0][key] != getattr(self, key):
                raise ValueError(
                    f"{key} is {getattr(self, key)} in the method and {optimizer.param_groups[0][key]} in the "
                    f"optimizer: set optimizer.{key} alone, the method follows"
                )
        check_units(optimizer, self.units)


@dataclass(frozen=True, kw_only=True)
class Proximal(Bregman):
    """Train with ProxSGD from the same start: the baseline without duals, which shrinks the weights at every step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.control == "quantile":
            raise ValueError("control=quantile ranks duals, and prox_sgd has no duals: choose constant or a controller")

    def check_optimizer(self, optimizer: Optimizer) -> None:
        """Raise an error for any other optimizer."""
        if not isinstance(optimizer, ProxSGD):
            refuse(self, optimizer, "ProxSGD (optimizer=prox_sgd)")
        check_units(optimizer, self.units)


def refuse(method: object, optimizer: Optimizer, needed: str) -> None:
    """Raise the error for an optimizer that does not belong to the method."""
    raise ValueError(f"{type(method).__name__} cannot train with {type(optimizer).__name__}: it needs {needed}")


def check_units(optimizer: Optimizer, units: str | None) -> None:
    """Check that the optimizer regularises the same units as the method.

    Raises:
        ValueError: the two differ.
    """
    names: list[Any] = [group["regularizer"] for group in optimizer.param_groups]
    regularized = {name for name in names if name is not None}
    if regularized != ({units} - {None}):
        found = ", ".join(map(repr, sorted(regularized))) or "None"
        raise ValueError(f"units {units!r} of the method and regularizer {found} of the optimizer must be equal")
