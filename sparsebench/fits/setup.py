"""The parts shared by all fits of a run, and the numbers derived from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor, nn
from torch.nn import Parameter

from sparsebench.cost.flops import LayerCost, layer_costs
from sparsebench.data import ImageData
from sparsebench.data.loader import Source
from sparsebench.engine import Classifier
from sparsebench.engine.callbacks.cuda_graphs import Wanted
from sparsebench.execution.backends import Execution
from sparsebench.fits.length import steps_of_epoch, steps_of_fit, used_batches
from sparsebench.fits.state import State
from sparsebench.methods import Method
from sparsebench.sparse import Prunable, SparseModel

_DECIDE_NUMBERS = frozenset({"network", "data", "classifier", "trainer", "prunable"})
"""Parts from which the numbers of a setup are derived."""


@dataclass(frozen=True)
class Numbers:
    """Length and device of a fit, according to trainer and data.

    Attributes:
        epoch_steps: number of optimizer steps of an epoch.
        max_epochs: length in epochs; None or negative for no limit.
        max_steps: length in optimizer steps; negative for no limit.
        limits: used batches of training and of validation: numbers as ints, shares as floats.
        device: device of this process.
    """

    epoch_steps: int
    max_epochs: int | None
    max_steps: int | None
    limits: tuple[int | float, int | float] = (1.0, 1.0)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def total_steps(self) -> int:
        """Optimizer steps of a whole fit; raises ValueError if training has no end."""
        return steps_of_fit(self.epoch_steps, self.max_epochs, self.max_steps)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The parts shared by all fits of a run; derived numbers are computed once, on first use.

    Args:
        network: builds the network; called under ``seed``.
        data: the data module.
        classifier: (network, total_steps=...) -> LightningModule.
        method: the sparse training method.
        trainer: keyword arguments -> Trainer.
        prunable: which parameters may be sparse.
        execution: how networks of this method are computed (``engine.Sparsity``).
        first_masks: masks of a fit without a start state; by default the method chooses them.
        loggers: (folder, run=name of the run's folder, stage=name of the fit or None) -> loggers of a fit.
        progress: callbacks that show progress, created for each fit.
        seed: initial weights, data order and masks.
        compile: compile the network in place.
        cuda_graphs: replay the network's passes as CUDA graphs: never, wherever possible (``auto``), or always.
        per_layer: log density and gradient flow of each layer.
        on_collapse: reaction to a layer that loses every weight: ``warn``, ``error`` or ``floor``.
        save_seconds: minimum time between two checkpoints.
        save_steps: number of steps after which to save a checkpoint as well.
    """

    network: Callable[[], nn.Module]
    data: ImageData
    classifier: Callable[..., Classifier]
    method: Method
    trainer: Callable[..., L.Trainer]
    prunable: Prunable = field(default_factory=Prunable)
    execution: Execution | None = None
    first_masks: Callable[[], Mapping[str, Tensor]] | None = None
    loggers: Callable[..., Sequence[Logger]] = lambda folder, *, run, stage: ()
    progress: Callable[[], Sequence[L.Callback]] = lambda: ()
    seed: int = 0
    compile: bool = False
    cuda_graphs: Wanted = False
    per_layer: bool = True
    on_collapse: str = "warn"
    save_seconds: float = 60.0
    save_steps: int | None = None
    _known: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def replace(self, **parts: Any) -> Setup:
        """Return the setup with other parts; numbers are shared unless they depend on a replaced part."""
        return replace(self, **parts, _known=self._known if _DECIDE_NUMBERS.isdisjoint(parts) else {})

    # -- length and device -----------------------------------------------------------------------------------------

    def numbers(self, **budget: Any) -> Numbers:
        """Return the length of a fit and its device, read once from a trainer that never trains.

        Args:
            budget: keywords for the trainer, such as ``max_epochs``.
        """
        return self._once(f"numbers {sorted(budget.items())}", lambda: self._ask_trainer(budget))

    def total_steps(self, **budget: Any) -> int:
        """Return the optimizer steps of a whole fit; raise ValueError if training has no end."""
        return self.numbers(**budget).total_steps

    def epoch_steps(self, **budget: Any) -> int:
        """Return the optimizer steps of an epoch."""
        return self.numbers(**budget).epoch_steps

    def quiet_trainer(self, **budget: Any) -> L.Trainer:
        """Build a trainer without callbacks, loggers or a progress bar."""
        return self.trainer(callbacks=[], logger=[], enable_progress_bar=False, **budget)

    def training_sets(self) -> tuple[Source | None, Source | None]:
        """Return training and validation images; None for a set that does not exist."""
        return self.data.training_sets()

    def _ask_trainer(self, budget: Mapping[str, Any]) -> Numbers:
        trainer: Any = self.quiet_trainer(**budget)
        self.data.prepare_data()
        self.data.setup("fit")
        batches = used_batches(len(self.data.train_dataloader()), trainer.limit_train_batches)
        return Numbers(
            epoch_steps=steps_of_epoch(batches, trainer.accumulate_grad_batches),
            max_epochs=trainer.max_epochs,
            max_steps=trainer.max_steps,
            limits=(trainer.limit_train_batches, trainer.limit_val_batches),
            device=trainer.strategy.root_device,
        )

    # -- the untrained network ------------------------------------------------------------------------------------

    def costs(self, net: nn.Module) -> list[LayerCost]:
        """Return the products of one forward pass of the network, for one sample of the data.

        Raises:
            ValueError: the network cannot process such a sample.
        """
        try:
            return layer_costs(net, torch.zeros(1, *self.data.shape))
        except (AssertionError, RuntimeError, TypeError) as error:
            shape, said = tuple(self.data.shape), " ".join(str(error).split())
            raise ValueError(f"the network cannot process images of shape {shape}: {said}") from error

    def initial(self) -> State:
        """Return the initial network, untrained and dense."""
        L.seed_everything(self.seed, verbose=False)
        return State({name: value.detach().clone() for name, value in self.network().state_dict().items()}, {})

    @property
    def blank(self) -> SparseModel:
        """The prunable parameters, by name and shape, as a dense sparse model without values."""
        return self._once("untrained", self._inspect)[0]

    @property
    def parameters(self) -> frozenset[str]:
        """Names of all parameters, including every name of shared ones."""
        return self._once("untrained", self._inspect)[1]

    def rate(self, progress: float) -> float:
        """Return the learning rate of the whole schedule at a progress in [0, 1]."""
        module = self.classifier(nn.Identity(), total_steps=1)
        return base_rate(module) * (1.0 if module.schedule is None else module.schedule(progress))

    def _inspect(self) -> tuple[SparseModel, frozenset[str]]:
        net = self.network()
        params = {name: Parameter(p.detach().to("meta")) for name, p in self.prunable.select(net).items()}
        return SparseModel(params), frozenset(name for name, _ in net.named_parameters(remove_duplicate=False))

    def _once(self, key: str, compute: Callable[[], Any]) -> Any:
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]


def base_rate(module: Classifier) -> float:
    """Return the learning rate by which schedule factors are multiplied."""
    return float(module.build_optimizer([Parameter(torch.zeros(1))]).defaults["lr"])
