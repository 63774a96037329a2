"""The ``Sparsity`` callback, which connects methods to Lightning.

One optimizer step, end to end; the names in brackets are hooks of this callback (held true by
``tests/engine/test_hook_sequence.py``)::

    fit starts
        [setup]                       choose the parameters, create learned ones, route the loss (resumed:
        [load_state_dict])  masks, memory, clock and ledger as they were configure_optimizers [on_fit_start]
        method.start -> first masks (not when resumed); a new clock starts sanity validation             sees the first
        masks

    for each micro-batch
        [on_train_batch_start]        count samples
        training_step                 through method.loss or a back end (methods.executor), if there is one backward
        DDP averages the gradients on the last micro-batch of a step
            [on_before_optimizer_step]    gradients complete, averaged, unscaled, unclipped, dense
                                          -> method.passes, method.before_step; raw optimizers of manual optimization
                                          get here by a step pre-hook
            clip                          sees masked gradients
            optimizer.step                skipped by a scaler on overflow: then nothing below happens
            [step post-hook]              clock + 1 -> method.after_step, ledger, agreement of ranks
            scheduler
        [on_train_batch_end]          also on micro-batches that made no step: nothing happens here
        checkpoint                    masks travel in this callback's state

    [on_train_end]                    method.finish; compare the sparsity with the request
"""

from __future__ import annotations

import warnings
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.optim import Optimizer

from sparsebench.engine.agreement import average_gradients, check_agreement
from sparsebench.engine.learned import adopt_learned, announce_learned, create_learned
from sparsebench.engine.probe import CountingProbe, build_probe
from sparsebench.engine.sparsity_state import SparsityState
from sparsebench.engine.stepping import Stepping, find_holders, is_elementwise
from sparsebench.engine.steps import (
    budget_of,
    refuse_fused_scaling,
    refuse_sharding,
    restore_steps,
    route_steps,
    samples_in,
    spare_empty_steps,
    steps_taken,
    will_skip,
)
from sparsebench.engine.target import describe_miss
from sparsebench.methods.base import Objective
from sparsebench.methods.executor import Executor
from sparsebench.sparse import SparseModel, digest


class Sparsity(SparsityState):
    """Train any LightningModule sparsely: ``L.Trainer(callbacks=[Sparsity(RigL(density=0.1))])``.

    Each fit has a separate clock. A fit on the same parameters as the previous one continues with the existing masks; a
    fit on other parameters, with or without a checkpoint, starts from scratch. With several optimizers, only those that
    hold the sparse parameters count steps. The sparsity is logged as ``sparsity`` at every epoch's end.

    Args:
        method: what differs from dense training.
        prunable: which parameters may be sparse; convolution and linear weights by default.
        seed: root of the method's random draws; the same on every rank.
        module: name of the submodule with the sparse parameters, so that masks have the network's own names; empty for
            the whole LightningModule.
        total_steps: the budget in optimizer steps; taken from the trainer by default. Several fits may share it.
        ledger: counts the training cost; none by default.
        masks: masks that training starts from, set before the method's own start; none by default.
        execution: a name from ``execution.backends``, or a callable that builds a back end; None lets module and method
            decide.

    Attributes:
        net: the sparse state, from ``setup`` on.
        step: number of optimizer steps taken in this fit, without those that a scaler skipped.
    """

    # -- before training ------------------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Choose the parameters that may be sparse, and route the loss, or evaluation, through the method."""
        self._stage, self._resumed = stage, False
        network = pl_module.get_submodule(self.module)
        params = self.prunable.select(network)
        if self._net is None or any(params.get(name) is not p for name, p in self._net.params.items()):
            net = SparseModel(params, seed=self.seed, module=network)
            self._executor = Executor(self.method, net, self.execution)
            create_learned(net, self.method)
            self._net, self._begun = net, False
            self._new_clock()
        if self._executor.routes and (stage == "fit" or not self.finished):
            route_steps(pl_module, self.module, self._loss, self._view, stage)
        if stage == "fit":
            refuse_sharding(trainer)
            spare_empty_steps(pl_module)
            announce_learned(pl_module, self.net, self.method)

    def _loss(self, objective: Objective) -> Tensor:
        return self._executor.loss(objective, self.clock) if self._begun else objective({})

    def _view(self) -> dict[str, Tensor]:
        return self._executor.view() if self._begun else {}

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the first masks unless they exist, start the clock, and hook into the optimizers."""
        self.net.move_()
        holders = find_holders(trainer, self.net)
        refuse_fused_scaling(trainer, holders)
        holders[0] = adopt_learned(trainer, holders[0], self.net, self.method)
        if not self._resumed:
            self._new_fit(trainer, pl_module)
        self._stepping = Stepping(
            holders, begin=self._begin_step, end=lambda optimizer: self._after_step(trainer, optimizer),
            listens=lambda: self in getattr(trainer, "callbacks", ()),
        )  # fmt: skip
        self._agree(trainer)

    def _new_fit(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin a fit without a checkpoint, with a new clock unless the given budget has steps left."""
        if not (self._begun and self._given_steps is not None and self.step < self._given_steps):
            self._new_clock()
        self.finished = False
        if trainer.ckpt_path is None and self.total_steps is None:
            self._plan(trainer)
        if not self._begun:
            if self.masks:
                self.net.set_masks(self.masks)
            probe = build_probe(trainer, pl_module, self.module)
            self.method.start(self.net, probe)
            self._begun = True
            self._charge_scoring(probe)

    def _new_clock(self) -> None:
        self.step, self.finished, self.total_steps = 0, False, self._given_steps
        if self.ledger is not None:
            self.ledger.reset()

    def _plan(self, trainer: L.Trainer) -> None:
        """Determine the budget: the steps of this fit, without those taken before it."""
        if not self._resumed:
            self._before = steps_taken(trainer)
        self.total_steps = budget_of(trainer, self._before)

    def _charge_scoring(self, probe: CountingProbe) -> None:
        """Charge the cost of scoring, which is recorded but, as in papers, not part of any ratio."""
        if self.ledger is not None and probe.samples():
            forward, backward = self.method.start_passes
            self.ledger.charge_start(forward=forward, backward=backward, samples=probe.samples())

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Determine the budget after a resumption; earlier, Lightning would lose the loader's position."""
        if self.total_steps is None:
            self._plan(trainer)

    # -- one step -------------------------------------------------------------------------------------------------

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count the samples of the step."""
        self._samples += samples_in(batch) * trainer.world_size

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Run the method on dense, averaged, unscaled gradients."""
        if not will_skip(trainer, optimizer) and self._stepping is not None:
            average_gradients(trainer, self.net.learned.values())
            self._stepping.announce(optimizer)

    def _begin_step(self, optimizer: Optimizer) -> None:
        self._pending = self._executor.cost(self.clock)
        self.method.before_step(self.net, self.clock, optimizer)

    def _after_step(self, trainer: L.Trainer, optimizer: Optimizer) -> None:
        """Advance the clock; called after the step."""
        self.step += 1
        self.method.after_step(self.net, self.clock, optimizer)
        if self.method.zeros == "stored" and not is_elementwise(optimizer):
            self.net.project_()
        if self.ledger is not None and self._pending is not None:
            passes, densities, executed = self._pending
            self.ledger.charge(passes, densities, self._samples, executed=executed)
        self._samples, self._pending = 0, None
        if self.net.version != self._agreed:
            self._agree(trainer)

    def _agree(self, trainer: L.Trainer) -> None:
        if trainer.world_size > 1:
            check_agreement(trainer, "masks", self.net.digest(), self.step)
        self._agreed = self.net.version

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the sparsity, and compare the weights of all ranks."""
        pl_module.log("sparsity", 1 - self.net.density, prog_bar=True, rank_zero_only=True)
        if trainer.world_size > 1:
            check_agreement(trainer, "weights", digest(dict(pl_module.named_parameters())), self.step)

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Project averaged weights, if another callback has swapped them in, onto the current masks."""
        if batch_idx == 0 and self._net is not None and self.method.zeros == "stored":
            self._net.project_()

    # -- the end --------------------------------------------------------------------------------------------------

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Make masks and weights final, and warn if the target is missed."""
        self.finish()
        if not self.target_reached:
            miss = describe_miss(self.method, self.net, self.clock)
            unspent = self._given_steps is not None and self.step < self._given_steps and not trainer.should_stop
            if unspent:
                rank_zero_info(f"{miss}; another fit with this callback uses the rest of total_steps")
            else:
                warnings.warn(miss, stacklevel=2)

    def finish(self) -> None:
        """Call ``method.finish`` once, however often training is resumed."""
        if self._begun and not self.finished:
            self._executor.finish()
            self.finished = True

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Remove the hooks, and restore the module's own steps."""
        if self._stepping is not None:
            self._stepping.stop()
            self._stepping = None
        restore_steps(pl_module)
        if stage == "fit" and self.finished:
            self.net.project_()  # weights averaged over time have the union of all supports
