"""The order of a step, as the docstring of engine/callback.py tells it."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
from support import Foreign, batches, silent_trainer

from sparsebench.engine import Sparsity
from sparsebench.methods import Clock
from sparsebench.methods.static import Static

LOG: list[str] = []


@dataclass(frozen=True, kw_only=True)
class Recording(Static):
    """Says what it is asked."""

    seen: ClassVar[list[Clock]] = []

    def start(self, net, probe):
        LOG.append("method.start")
        super().start(net, probe)

    def loss(self, net, objective):
        LOG.append("method.loss")
        return super().loss(net, objective)

    def passes(self, net, clock):
        LOG.append("method.passes")
        return super().passes(net, clock)

    def before_step(self, net, clock, optimizer):
        LOG.append(f"method.before_step {clock.step}/{clock.total}")
        assert all(
            p.grad.count_nonzero() > m.sum() for p, m in zip(net.params.values(), net.masks.values(), strict=True)
        ), "gradients are dense"
        super().before_step(net, clock, optimizer)

    def after_step(self, net, clock, optimizer):
        LOG.append(f"method.after_step {clock.step}/{clock.total}")
        super().after_step(net, clock, optimizer)

    def finish(self, net):
        LOG.append("method.finish")


class Loud(Foreign):
    def training_step(self, batch, batch_idx):
        LOG.append("training_step")
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        LOG.append(f"validation_step with {int((self.head.weight != 0).sum())} weights in the head")

    def on_after_backward(self):
        LOG.append("backward")

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        live = [p.grad for p in self.parameters() if p.grad is not None and p.dim() > 1]
        LOG.append(f"clip of {sum(int((g != 0).sum()) for g in live)} gradients")
        super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def lr_scheduler_step(self, scheduler, metric):
        LOG.append("scheduler")
        super().lr_scheduler_step(scheduler, metric)

    def configure_optimizers(self):
        LOG.append("configure_optimizers")
        return super().configure_optimizers()


def logged(name):
    def hook(self, *arguments, **options):
        LOG.append(f"[{name}]")
        return getattr(Sparsity, name)(self, *arguments, **options)

    return hook


HOOKS = ["on_fit_start", "on_train_batch_start", "on_before_optimizer_step", "on_train_batch_end", "on_train_end",
         "state_dict", "load_state_dict"]  # fmt: skip
Watched = type("Watched", (Sparsity,), {name: logged(name) for name in HOOKS})

# the first validation_step is that of the sanity check
FIT = """
configure_optimizers
[on_fit_start]
method.start
validation_step with 32 weights in the head
[on_train_batch_start]
method.loss
training_step
backward
[on_train_batch_end]
[on_train_batch_start]
method.loss
training_step
backward
[on_before_optimizer_step]
method.passes
method.before_step 0/2
clip of N gradients
method.after_step 1/2
scheduler
[on_train_batch_end]
[on_train_batch_start]
method.loss
training_step
backward
[on_train_batch_end]
[on_train_batch_start]
method.loss
training_step
backward
[on_before_optimizer_step]
method.passes
method.before_step 1/2
clip of N gradients
method.after_step 2/2
scheduler
[on_train_batch_end]
validation_step with 32 weights in the head
[on_train_end]
method.finish
"""


def test_the_golden_sequence():
    sparsity = Watched(Recording(density=0.2))
    LOG.clear()
    trainer = silent_trainer(
        accumulate_grad_batches=2, gradient_clip_val=0.5, num_sanity_val_steps=1, callbacks=[sparsity]
    )
    trainer.fit(Loud(), batches(4), batches(1))
    ones = sum(sparsity.net.counts.values())
    told = ["clip of N gradients" if line.startswith("clip") else line for line in LOG]
    clips = [int(line.split()[2]) for line in LOG if line.startswith("clip")]
    assert all(0 < clip <= ones for clip in clips), "clipping sees masked gradients"
    assert told == FIT.replace("32 weights", f"{sparsity.net.counts['head.weight']} weights").strip().splitlines()


def test_a_resumed_fit_does_not_start_again(tmp_path):
    first = Watched(Recording(density=0.2))
    trainer = silent_trainer(callbacks=[first], max_epochs=1)
    trainer.fit(Loud(), batches(4), batches(1))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    digest = first.net.digest()

    LOG.clear()
    second = Watched(Recording(density=0.2), seed=99)
    trainer = silent_trainer(callbacks=[second], max_epochs=2)
    trainer.fit(Loud(), batches(4), batches(1), ckpt_path=tmp_path / "a.ckpt")
    assert LOG[:3] == ["[load_state_dict]", "configure_optimizers", "[on_fit_start]"]
    assert "method.start" not in LOG
    assert "method.before_step 4/8" in LOG
    assert second.net.digest() == digest
    assert second.step == 8


def test_the_clock_counts_optimizer_steps_over_ragged_accumulation():
    sparsity = Sparsity(Recording(density=0.2))
    trainer = silent_trainer(callbacks=[sparsity], accumulate_grad_batches=3, max_epochs=2)
    trainer.fit(Foreign(), batches(7))
    assert sparsity.step == trainer.global_step == 6
    assert sparsity.clock == Clock(6, 6)


def test_training_without_an_end_is_refused():
    with pytest.raises(ValueError, match="set max_epochs or max_steps"):
        silent_trainer(callbacks=[Sparsity(Recording(density=0.2))], max_epochs=-1).fit(Foreign(), batches(2))


def test_the_state_does_not_exist_before_fit():
    with pytest.raises(RuntimeError, match="created when fit starts"):
        _ = Sparsity(Recording(density=0.2)).net
