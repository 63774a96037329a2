"""Sparsity: the only place where methods meet Lightning.

One optimizer step, end to end; the names in brackets are hooks of this callback (held true by
``tests/engine/test_hook_sequence.py``)::

    fit starts
        [setup]                       choose the parameters, create what is learned, route the loss
        (resumed: [load_state_dict])  masks, memory, clock and ledger as they were
        configure_optimizers
        [on_fit_start]                method.start -> first masks (not when resumed)
        sanity validation             sees the first masks

    for each micro-batch
        [on_train_batch_start]        count samples
        training_step                 through method.loss, when the method defines one
        backward                      DDP averages the gradients
        on the last micro-batch of a step
            [on_before_optimizer_step]    gradients complete, averaged, unscaled, unclipped, dense
                                          -> method.passes, method.before_step
            clip                          sees masked gradients
            optimizer.step                skipped by a scaler on overflow: then nothing below happens
            [step post-hook]              clock + 1 -> method.after_step, ledger, agreement of ranks
            scheduler
        [on_train_batch_end]          also on micro-batches that made no step: nothing happens here
        checkpoint                    masks travel in this callback's state

    [on_train_end]                    method.finish
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
from torch import Tensor
from torch.optim import Optimizer

from sparsebench.cost.ledger import Ledger
from sparsebench.cost.passes import Passes
from sparsebench.engine.agreement import average_gradients, check_agreement
from sparsebench.engine.learned import adopt_learned, announce_learned, check_trained, create_learned
from sparsebench.engine.probe import CountingProbe, build_probe
from sparsebench.engine.steps import budget_of, restore_steps, route_steps, samples_in, spare_empty_steps, will_skip
from sparsebench.methods.base import Clock, Method, Objective
from sparsebench.sparse import Prunable, SparseModel, digest

ELEMENTWISE = {
    "SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta", "Lion", "Together",
}  # fmt: skip
"""Optimizers that keep a weight at zero while its gradient and moments are zero; others are projected."""


class Sparsity(L.Callback):
    """Train any LightningModule sparsely: ``L.Trainer(callbacks=[Sparsity(RigL(density=0.1))])``.

    Args:
        method: what differs from dense training.
        prunable: which parameters may be sparse; convolution and linear weights by default.
        seed: root of the method's random draws; the same on every rank.
        module: name of the submodule whose parameters are meant, so that masks carry the network's own names;
            empty for the whole LightningModule.
        total_steps: the budget in optimizer steps; asked from the trainer by default.
        ledger: accounts for the training cost; none by default.
        masks: masks that training starts from, set before the method's own start; none by default.

    Attributes:
        net: the sparse state, from ``setup`` on.
        step: optimizer steps taken; steps that a scaler skips do not count.
    """

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
    ) -> None:
        self.method = method
        self.prunable = prunable or Prunable()
        self.seed = seed
        self.module = module
        self.total_steps = total_steps
        self.ledger = ledger
        self.masks = masks
        self.step = 0
        self.finished = False
        self._net: SparseModel | None = None
        self._restored = False
        self._samples = 0
        self._pending: tuple[Passes, dict[str, float], Passes | None] | None = None
        self._agreed = -1
        self._hook: Any = None

    # -- what others read -----------------------------------------------------------------------------------------

    @property
    def net(self) -> SparseModel:
        """The sparse state; exists from ``setup`` on."""
        if self._net is None:
            raise RuntimeError("the sparse state does not exist yet: it is created when fit starts")
        return self._net

    @property
    def clock(self) -> Clock:
        """Steps taken, out of the budget."""
        assert self.total_steps is not None
        return Clock(self.step, self.total_steps)

    # -- before training ------------------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Choose the parameters that may be sparse, and route the loss through the method."""
        if stage != "fit":
            return
        sharded = type(trainer.strategy).__name__
        if any(word in sharded for word in ("FSDP", "DeepSpeed", "ModelParallel")):
            raise ValueError(f"{sharded} shards parameters, masks need whole ones: use strategy ddp or a single device")
        params = self.prunable.select(pl_module.get_submodule(self.module))
        if self._net is None or any(params.get(name) is not p for name, p in self._net.params.items()):
            self._net = SparseModel(params, seed=self.seed, module=pl_module.get_submodule(self.module))
            create_learned(self._net, self.method)
        if type(self.method).loss is not Method.loss or type(self.method).view is not Method.view:
            route_steps(pl_module, self.module, self._loss, lambda: self.method.view(self.net))
        spare_empty_steps(pl_module)
        announce_learned(pl_module, self._net, self.method)

    def _loss(self, objective: Objective) -> Tensor:
        return self.method.loss(self.net, objective)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the first masks, unless they were restored; start listening to the optimizer."""
        if len(trainer.optimizers) != 1:
            raise ValueError(
                f"one optimizer is needed, {len(trainer.optimizers)} are configured: combine them into one"
            )
        self.net.move_()
        check_trained(trainer, self.net)
        adopt_learned(trainer, self.net, self.method)
        optimizer = trainer.optimizers[0]
        if not self._restored:
            self.total_steps = self.total_steps or budget_of(trainer)
            if self.masks:
                self.net.set_masks(self.masks)
            probe = build_probe(trainer, pl_module, self.module)
            self.method.start(self.net, probe)
            self._charge_scoring(probe)
        self._hook = optimizer.register_step_post_hook(lambda opt, *_: self._after_step(trainer, opt))
        self._agree(trainer)

    def _charge_scoring(self, probe: CountingProbe) -> None:
        """Account for what the method asked of the probe: outside of every ratio, as papers do, but on record."""
        if self.ledger is not None and probe.samples():
            forward, backward = getattr(self.method, "start_passes", (1.0, 1.0))
            self.ledger.charge_start(forward=forward, backward=backward, samples=probe.samples())

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ask for the budget after a resumption: asking earlier would make Lightning forget the loader's position."""
        self.total_steps = self.total_steps or budget_of(trainer)

    # -- one step -------------------------------------------------------------------------------------------------

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count the samples of the step."""
        self._samples += samples_in(batch) * trainer.world_size

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Let the method act on dense, averaged, unscaled gradients."""
        if will_skip(trainer, optimizer):
            return
        average_gradients(trainer, self.net.learned.values())
        executed = self.method.executed(self.net, self.clock)
        self._pending = (self.method.passes(self.net, self.clock), self.net.densities, executed)
        self.method.before_step(self.net, self.clock, optimizer)

    def _after_step(self, trainer: L.Trainer, optimizer: Optimizer) -> None:
        """Advance the clock; called by the optimizer once its step is taken."""
        self.step += 1
        self.method.after_step(self.net, self.clock, optimizer)
        if self.method.zeros == "stored" and type(optimizer).__name__ not in ELEMENTWISE:
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
        """Compare the weights of all ranks."""
        if trainer.world_size > 1:
            check_agreement(trainer, "weights", digest(dict(pl_module.named_parameters())), self.step)

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Project averaged weights, if another callback has swapped them in, onto the present masks."""
        if batch_idx == 0 and self._net is not None and self.method.zeros == "stored":
            self._net.project_()

    # -- the end --------------------------------------------------------------------------------------------------

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Fix what is still random or soft."""
        self.finish()

    def finish(self) -> None:
        """Call ``method.finish`` once, however often training is resumed."""
        if not self.finished:
            self.method.finish(self.net)
            self.finished = True

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Stop listening, and give the module its own steps back."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        restore_steps(pl_module)
        if stage == "fit" and self.finished:
            self.net.project_()  # what was averaged over time has the union of all supports

    # -- saving ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return clock, sparse state and ledger."""
        ledger = None if self.ledger is None else self.ledger.state_dict()
        state = {} if self._net is None else self._net.state_dict()
        return {"step": self.step, "finished": self.finished, "net": state, "ledger": ledger}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned; the method's ``start`` is then not called."""
        self.step, self.finished = state_dict["step"], state_dict["finished"]
        self.net.load_state_dict(state_dict["net"])
        if self.ledger is not None and state_dict["ledger"] is not None:
            self.ledger.load_state_dict(state_dict["ledger"])
        self._restored = True
