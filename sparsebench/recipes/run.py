"""Run: everything that a fit needs, and ``fit`` itself, memoised under a name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn

from sparsebench.cost.flops import layer_costs
from sparsebench.cost.ledger import Ledger
from sparsebench.cost.speed import peak_memory_mb
from sparsebench.data import ImageData
from sparsebench.engine import Classifier, Sparsity
from sparsebench.engine.loggers import close_loggers
from sparsebench.engine.monitors import LossGuard, SparsityMonitor, SpeedMonitor
from sparsebench.engine.resume import Continuation
from sparsebench.methods import Method
from sparsebench.recipes.state import State
from sparsebench.sparse import Prunable
from sparsebench.sparse.report import collapsed_layers, dead_units, exploration_rate


@dataclass(kw_only=True)
class Run:
    """What a recipe runs with: the pieces of a fit, a budget, a folder and a seed.

    Args:
        folder: where states and checkpoints lie.
        network: builds the network; called under ``seed``.
        data: the data module.
        classifier: (network, total_steps=...) -> LightningModule.
        method: what differs from dense training.
        trainer: keyword arguments -> Trainer.
        prunable: which parameters may be sparse.
        loggers: folder -> loggers of a fit.
        progress: callbacks that show progress, made anew for each fit.
        seed: initial weights, data order and masks.
        compile: compile the network in place.
        save_seconds: least time between two checkpoints.
        save_steps: checkpoint after this many steps too.
    """

    folder: Path
    network: Callable[[], nn.Module]
    data: ImageData
    classifier: Callable[..., Classifier]
    method: Method
    trainer: Callable[..., L.Trainer]
    prunable: Prunable = field(default_factory=Prunable)
    loggers: Callable[[Path], Sequence[Any]] = lambda folder: ()
    progress: Callable[[], Sequence[L.Callback]] = lambda: ()
    seed: int = 0
    compile: bool = False
    per_layer: bool = True
    save_seconds: float = 60.0
    save_steps: int | None = None
    _open: list[Any] | None = None

    def fit(
        self,
        name: str,
        start: State | None = None,
        *,
        seed: int | None = None,
        method: Method | None = None,
        **budget: Any,
    ) -> State:
        """Train from a state to a state, or return the one that is already there.

        The last checkpoint of an interrupted fit is continued exactly.

        Args:
            name: identifies the fit within the folder.
            start: weights and masks to begin with; the freshly built network by default.
            seed: data order of this fit; the run's by default.
            method: the run's by default.
            budget: keywords for the trainer, such as ``max_epochs``.
        """
        done = self.folder / f"{name}.pt"
        if done.exists():
            return State.load(done)

        L.seed_everything(self.seed, verbose=False)
        net = self.network()
        if start is not None:
            net.load_state_dict(dict(start.weights))
        ledger = Ledger(layer_costs(net, torch.zeros(1, *self.data.shape)))
        self.data.order_seed = self.seed if seed is None else seed

        sparsity = Sparsity(method or self.method, prunable=self.prunable, seed=self.seed, module="net", ledger=ledger)
        speed = SpeedMonitor()
        checkpoint = self.folder / f"{name}.ckpt"
        trainer = self.trainer(
            callbacks=[
                sparsity,
                SparsityMonitor(sparsity, per_layer=self.per_layer),
                LossGuard(),
                speed,
                Continuation(checkpoint, seconds=self.save_seconds, steps=self.save_steps),
                *self.progress(),
            ],
            logger=self.open_loggers(),
            default_root_dir=self.folder,
            **budget,
        )
        sparsity.total_steps = self.steps(trainer)
        module = self.classifier(net, total_steps=sparsity.total_steps)
        if self.compile:
            module.net.compile()
        trainer.fit(module, datamodule=self.data, ckpt_path=checkpoint if checkpoint.exists() else None)
        sparsity.finish()

        state = State(
            weights={key: value.detach().cpu() for key, value in module.net.state_dict().items()},
            masks={key: mask.cpu() for key, mask in sparsity.net.masks.items()},
            facts=_facts(trainer, sparsity, speed),
        )
        if trainer.is_global_zero:
            state.save(done)
            checkpoint.unlink(missing_ok=True)
        trainer.strategy.barrier("state saved")
        return state

    def open_loggers(self) -> list[Any]:
        """Return the loggers of this run, opened once: several fits write to the same."""
        if self._open is None:
            self._open = list(self.loggers(self.folder))
        return self._open

    def close_loggers(self, *, failed: bool = False, summary: Mapping[str, Any] | None = None) -> None:
        """Close the loggers, marked failed where the run failed."""
        close_loggers(self._open or [], failed=failed, summary=summary)
        self._open = None

    def steps(self, trainer: L.Trainer) -> int:
        """Return the optimizer steps of a fit with this trainer.

        Raises:
            ValueError: the trainer has no end.
        """
        self.data.prepare_data()
        self.data.setup("fit")
        batches = len(self.data.train_dataloader())
        limit = trainer.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        each = math.ceil(batches / trainer.accumulate_grad_batches)
        epochs = trainer.max_epochs if trainer.max_epochs is not None else -1
        if epochs < 0 and trainer.max_steps < 0:
            raise ValueError("training has no end, schedules need one: set trainer.max_epochs or trainer.max_steps")
        ends = [each * epochs] if epochs >= 0 else []
        ends += [trainer.max_steps] if trainer.max_steps >= 0 else []
        if min(ends) < 1:
            raise ValueError(f"{min(ends)} optimizer steps are no training: raise trainer.max_epochs or max_steps")
        return min(ends)

    def evaluate(self, state: State, *, split: str = "test") -> dict[str, float]:
        """Measure a state on ``test`` or ``validation`` data."""
        net = self.network()
        net.load_state_dict(dict(state.weights))
        module = self.classifier(net, total_steps=1)
        trainer = self.trainer(callbacks=[], logger=[], default_root_dir=self.folder, enable_progress_bar=False)
        measure = trainer.test if split == "test" else trainer.validate
        (metrics,) = measure(module, datamodule=self.data, verbose=False)
        return dict(metrics)


def _facts(trainer: L.Trainer, sparsity: Sparsity, speed: SpeedMonitor) -> dict[str, Any]:
    net, ledger = sparsity.net, sparsity.ledger
    assert ledger is not None
    metrics: Mapping[str, Any] = trainer.callback_metrics
    return {
        "steps": sparsity.step,
        "epochs": trainer.current_epoch,
        "val_accuracy": float(metrics["val_accuracy"]) if "val_accuracy" in metrics else None,
        "train_loss": float(metrics["train_loss"]) if "train_loss" in metrics else None,
        "train_flops": ledger.train_flops,
        "dense_flops": ledger.dense_flops,
        "executed_flops": ledger.executed_flops,
        "start_flops": ledger.start_flops,
        "exploration_rate": exploration_rate(net),
        "collapsed_layers": collapsed_layers(net),
        "dead_units": sum(dead_units(net).values()),
        "seconds": speed.seconds,
        "images_per_second": speed.stopwatch.images_per_second,
        "peak_memory_mb": peak_memory_mb(trainer.strategy.root_device),
    }
