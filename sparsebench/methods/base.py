"""Method: the interface of all training methods, whose defaults are dense training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsebench.cost.passes import DENSE, SPARSE, Passes
from sparsebench.execution.backends import Execution, build_backend
from sparsebench.execution.base import Backend
from sparsebench.functional.counts import Budget
from sparsebench.functional.distribution import erk
from sparsebench.functional.score import Objective as Objective
from sparsebench.functional.score import Weights as Weights
from sparsebench.methods.arguments import SettingsSignature, check_arguments
from sparsebench.methods.clock import Clock as Clock
from sparsebench.methods.draws import draw_scores as draw_scores
from sparsebench.methods.probe import Probe as Probe
from sparsebench.patterns import Pattern, Unstructured
from sparsebench.sparse.model import SparseModel

Distribution = Callable[[Mapping[str, tuple[int, ...]], float], Mapping[str, float] | float]
"""Shapes, density -> density per layer, or one number where layers share a single global budget."""

ANYWHERE = Unstructured()
"""The pattern of zeros by default: none."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """Dense training, and the base of all methods; subclasses hold hyper-parameters only."""

    paper: ClassVar[str] = ""
    """Key of the method's paper in ``results/published.yaml``; empty if it has none."""
    budget_holds: ClassVar[str] = "never"
    """When the density equals the budget exactly: ``always``, ``end`` or ``never``."""
    zeros: ClassVar[str] = "stored"
    """``stored``: weights outside the masks are zero; ``computed``: they need not be,
    since the forward pass or the optimizer itself makes the zeros."""

    given_masks: ClassVar[bool] = False
    """Whether a recipe, or the user, supplies the masks."""

    exceptions: ClassVar[Mapping[str, str]] = {}
    """Promises that this method cannot keep, each with its reason.

    Every method promises the following, and ``tests/methods/test_every_method.py`` checks it: ``budget`` (exact, when
    ``budget_holds`` says), ``resume`` (bit for bit), ``ranks`` (equal digests), ``accumulation``, ``bf16``, ``skip`` (a
    step that a scaler skips changes nothing), ``zeros`` (no zero is revived by decay, momentum or averaging),
    ``growth`` (newly grown weights and their moments start at zero) and ``export`` (a plain state dict).
    """

    start_passes: ClassVar[tuple[float, float]] = (1.0, 1.0)
    """Forward and backward passes that ``start`` spends on a sample each time it evaluates an objective."""

    __signature__: ClassVar[Any] = SettingsSignature()

    def __new__(cls, *given: Any, **options: Any) -> Self:
        """Raise an error for settings that the method does not have, with advice on the right ones."""
        check_arguments(cls, given, options)
        return super().__new__(cls)

    @property
    def moves_budget(self) -> bool:
        """Whether weights move between layers during training, at a constant total."""
        return False

    def budget(self, net: SparseModel) -> Budget | None:
        """Return the number of weights to keep, per layer or overall; None if it results from training."""
        del net

    def promised(self, net: SparseModel) -> int | None:
        """Return the number of weights at the end (at most, if ``exceptions`` has ``budget``); None if unknown."""
        del net

    def targets(self, clock: Clock) -> dict[str, float]:
        """Return the method's current targets under the names by which they are logged.

        ``sparsity_target``: the final sparsity, unless it results from training; ``drop_fraction``: the share of the
        active weights that an update would drop, 0 after the last update.
        """
        del clock
        return {}

    def draw_masks(self, net: SparseModel) -> dict[str, Tensor]:
        """Return random masks as large as the first ones, for plans, which have no data."""
        return {name: torch.ones_like(p, dtype=torch.bool) for name, p in net.params.items()}

    def learned(self, net: SparseModel) -> dict[str, Tensor]:
        """Return initial values of scores or thresholds to be trained with the weights."""
        del net
        return {}

    def learned_options(self) -> dict[str, Any]:
        """Return the optimizer options of learned parameters, such as ``lr`` and ``weight_decay``."""
        return {"weight_decay": 0.0}

    def learned_optimizer(self, group: dict[str, Any]) -> Optimizer | None:
        """Return a separate optimizer for learned parameters, or None to use the weights' optimizer.

        Args:
            group: the parameters with ``learned_options``.
        """
        del group

    def start(self, net: SparseModel, probe: Probe) -> None:
        """Choose the first masks; not called on resumption."""

    def view(self, net: SparseModel) -> dict[str, Tensor]:
        """Return the weights used in the forward pass in place of the parameters; none by default.

        A method with computed zeros overrides this once: training, evaluation and export all use it.
        """
        del net
        return {}

    def loss(self, net: SparseModel, objective: Objective) -> Tensor:
        """Return the loss to differentiate."""
        return objective(self.view(net))

    def before_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Process gradients that are complete, unscaled, averaged over ranks, unclipped and still dense."""

    def after_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Update masks or weights after the step; ``clock.step`` counts the step just taken."""

    @torch.no_grad()
    def finish(self, net: SparseModel) -> None:
        """Make masks and weights final after the last step; by default, store the weights of ``view``."""
        for name, weight in self.view(net).items():
            net.params[name].copy_(weight)

    def sizes_after(self, net: SparseModel, clock: Clock) -> Mapping[str, int] | None:
        """Return the active weights of each layer after the update at ``clock``, or None if scores decide them."""
        del net, clock

    def passes(self, net: SparseModel, clock: Clock) -> Passes:
        """Return the weights needed by each pass of the step at ``clock``."""
        del net, clock
        return DENSE

    def executed(self, net: SparseModel, clock: Clock) -> Passes | None:
        """Return the weights that the passes really multiply by; None if the network runs at full size."""
        del net, clock

    def backend(self, net: SparseModel, execution: Execution) -> Backend:
        """Build the back end of the network requested by ``Sparsity(method, execution=...)``.

        Raises:
            ValueError: the back end does not exist, or does not support this method.
        """
        kind = type(self)
        if kind.loss is not Method.loss or kind.view is not Method.view:
            raise ValueError(f"{kind.__name__} computes its own zeros and runs at full size only: leave execution=null")
        return build_backend(execution, net, channels=self.whole_outputs, who=kind.__name__)

    @property
    def whole_outputs(self) -> bool:
        """True when masks keep or drop whole output channels."""
        return False


@dataclass(frozen=True, kw_only=True)
class Masked(Method):
    """Base class of methods with stored zeros and a budget.

    Args:
        density: share of the weights that stay active, among all that may be sparse.
        distribution: how the budget is divided over layers.
        pattern: where zeros may lie; the budget is the nearest to the density that the pattern can express.
    """

    zeros: ClassVar[str] = "stored"

    density: float = 0.1
    distribution: Distribution = erk
    pattern: Pattern = ANYWHERE

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise ValueError(
                f"density {self.density:g} (sparsity {1 - self.density:g}) is impossible: "
                f"choose a sparsity of at least 0 and below 1"
            )

    def targets(self, clock: Clock) -> dict[str, float]:
        """Return the sparsity at the end of training."""
        return {**super().targets(clock), "sparsity_target": 1 - self.density}

    def promised(self, net: SparseModel) -> int | None:
        """Return the budget of all layers together, if the method reaches it exactly."""
        spent = None if self.budget_holds == "never" else self.budget(net)
        return sum(spent.values()) if isinstance(spent, Mapping) else spent

    def draw_masks(self, net: SparseModel) -> dict[str, Tensor]:
        """Return random masks that use the whole budget."""
        return self.pattern.keep(draw_scores(net, "start"), self.budget(net))

    def budget(self, net: SparseModel, density: float | None = None) -> Budget:
        """Return the number of weights kept in each layer, or overall for a global distribution.

        Raises:
            ValueError: the pattern contradicts the method's final density; intermediate densities are only
                approximated.
        """
        densities = self.distribution(net.shapes, self.density if density is None else density)
        if density is None:
            self.pattern.refuse(net.shapes, densities)
            self._refuse_transposed(net, densities)
        return self.pattern.budget(net.shapes, densities)

    @property
    def whole_outputs(self) -> bool:
        """True when the pattern consists of whole output channels."""
        return self.pattern.whole_outputs

    def _refuse_transposed(self, net: SparseModel, densities: Mapping[str, float] | float) -> None:
        each = densities if isinstance(densities, Mapping) else dict.fromkeys(net.shapes, densities)
        wrong = sorted(name for name in net.transposed if each[name] < 1)
        if wrong and self.pattern.directed:
            raise ValueError(
                f"{type(self.pattern).__name__} distinguishes outputs from inputs, and the first dimension of "
                f"{', '.join(wrong)} counts inputs (a transposed layer): leave it dense with "
                f"prunable.exclude=[{','.join(wrong)}], or choose pattern=unstructured"
            )

    def start(self, net: SparseModel, probe: Probe) -> None:
        """Raise an error for an impossible budget before training; begin with every weight active."""
        del probe
        self.budget(net)
        net.set_masks({name: torch.ones_like(p, dtype=torch.bool) for name, p in net.params.items()})

    def before_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Mask the gradients: weights, gradients and moments outside the masks are zero and stay zero."""
        del clock, optimizer
        net.mask_gradients_()

    def passes(self, net: SparseModel, clock: Clock) -> Passes:
        """Every pass multiplies by active weights only."""
        del net, clock
        return SPARSE
