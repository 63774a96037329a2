"""Sparsity inside real trainers: precision, layout, compilation, accumulation, skipped steps, other callbacks."""

import copy

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging
from lightning.pytorch.plugins.precision import MixedPrecision
from support import Foreign, Validated, batches, optimizer_tensors, silent_trainer
from torch import nn

from sparsebench.engine import Sparsity
from sparsebench.engine.callbacks.monitors import LossGuard
from sparsebench.methods import DSTEE, GMP, SET, RigL, Static
from sparsebench.sparse import Prunable, digest

ITOP = {"density": 0.2, "every": 2, "until": 1.0, "replaces_step": False}


def fit(method, module=None, *, number=8, loader=None, callbacks=(), **options):
    """Train and return (callback, module, trainer)."""
    sparsity, module = Sparsity(method, seed=3), module or Foreign()
    trainer = silent_trainer(callbacks=[sparsity, *callbacks], **options)
    trainer.fit(module, loader or batches(number))
    return sparsity, module, trainer


def zeros_hold(sparsity, trainer=None):
    for name, mask in sparsity.net.masks.items():
        p = sparsity.net.params[name]
        assert not p.detach()[~mask].any(), name
        if trainer is not None:
            state = trainer.optimizers[0].state[p].values()
            assert all(not v[~mask].any() for v in state if torch.is_tensor(v) and v.shape == p.shape), name
    return True


# -- the ten lines of the README ---------------------------------------------------------------------------------------


def test_any_lightning_module_trains_sparsely_with_one_callback():
    module, data = Foreign(), batches(8)

    sparsity = Sparsity(RigL(density=0.1, every=2))
    trainer = L.Trainer(
        callbacks=[sparsity], max_epochs=3,
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(module, data)

    weights = [p for p in module.parameters() if p.dim() > 1]
    assert sum(int((p != 0).sum()) for p in weights) <= round(0.1 * sum(p.numel() for p in weights))
    assert sparsity.net.density == pytest.approx(0.1, abs=1e-3)
    assert sparsity.net.version == 10  # the first masks, and every second step until 0.75 of 24
    assert zeros_hold(sparsity, trainer)


def test_a_part_of_a_module_may_be_meant():
    sparsity = Sparsity(Static(density=0.5), module="body", prunable=Prunable(types=["linear"]))
    module = Foreign()
    silent_trainer(callbacks=[sparsity]).fit(module, batches(2))
    assert list(sparsity.net.masks) == ["3.weight"]
    assert bool((module.head.weight != 0).all())


def test_the_module_is_given_back_as_it_was():
    class Doubled(Static):
        def view(self, net):
            return {n: 2 * p for n, p in net.params.items()}

    module = Validated()
    trainer = silent_trainer(callbacks=[Sparsity(Doubled(density=0.5))])
    trainer.fit(module, batches(2), batches(1))
    assert not {"training_step", "validation_step"} & set(vars(module))


@pytest.mark.filterwarnings("ignore:left dense, and outside every budget. body.0.weight, body.3.weight .frozen")
def test_a_frozen_body_is_left_as_it_is_and_outside_of_the_budget():
    """Frozen weights get no gradient: they would be dropped, regrown as zeros, and counted as active."""
    module = Foreign(lambda p: torch.optim.SGD([q for q in p if q.requires_grad], lr=0.05))
    module.body.requires_grad_(False)
    before = copy.deepcopy(module.body.state_dict())
    sparsity, _, trainer = fit(RigL(density=0.5, every=2), module)
    assert all(torch.equal(value, before[name]) for name, value in module.body.state_dict().items())
    assert list(sparsity.net.params) == ["head.weight"]
    assert int((module.head.weight != 0).sum()) == sparsity.net.counts["head.weight"] == 80
    assert zeros_hold(sparsity, trainer)


def test_parameters_that_no_optimizer_holds_are_refused_by_name():
    module = Foreign()
    module.build = lambda p: torch.optim.SGD(module.head.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"optimizer does not hold body.0.weight, body.3.weight, which may be sparse"):
        fit(RigL(density=0.5, every=2), module)


def test_sharded_strategies_are_refused():
    class FSDPStrategy(type(silent_trainer().strategy)):
        pass

    strategy = FSDPStrategy(accelerator=silent_trainer().accelerator)
    with pytest.raises(ValueError, match=r"FSDPStrategy shards parameters.*use strategy ddp or a single device"):
        L.Trainer(
            strategy=strategy, callbacks=[Sparsity(Static())], max_epochs=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False,
        ).fit(Foreign(), batches(2))  # fmt: skip


# -- precision, layout, compilation ------------------------------------------------------------------------------------


def test_bfloat16():
    sparsity, module, trainer = fit(RigL(density=0.2, every=2), precision="bf16-mixed")
    assert zeros_hold(sparsity, trainer)
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in module.parameters())


def test_weights_in_bfloat16():
    sparsity, _, trainer = fit(RigL(density=0.2, every=2), precision="bf16-true")
    assert {p.dtype for p in sparsity.net.params.values()} == {torch.bfloat16}
    assert sum(sparsity.net.counts.values()) == round(0.2 * sum(p.numel() for p in sparsity.net.params.values()))
    assert zeros_hold(sparsity, trainer)


@pytest.mark.parametrize("method", [SET(**{**ITOP, "every": 3}), GMP(density=0.2, every=2)], ids=["set", "gmp"])
def test_channels_last_makes_the_same_masks(method):
    plain, _, _ = fit(method)
    module = Foreign().to(memory_format=torch.channels_last)
    last, _, trainer = fit(method, module)
    assert last.net.digest() == plain.net.digest()
    name = "body.0.weight"
    assert last.net.masks[name].stride() == last.net.params[name].stride()
    assert zeros_hold(last, trainer)


def test_compiled_network():
    torch._dynamo.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    module = Foreign()
    module.body.compile(backend=backend)
    compiled, _, trainer = fit(RigL(density=0.2, every=2), module)
    plain, _, _ = fit(RigL(density=0.2, every=2))
    assert len(graphs) == 1, "changing masks must not compile again"
    assert not any("_orig_mod" in name for name in module.state_dict())
    assert compiled.net.digest() == plain.net.digest()
    assert zeros_hold(compiled, trainer)


# -- accumulation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", [RigL(density=0.2, every=2), DSTEE(c=1e-3, **ITOP), GMP(density=0.2, every=2)],
    ids=["rigl", "dst_ee", "gmp"],
)  # fmt: skip
def test_one_batch_of_64_equals_two_of_32(method):
    whole, one, _ = fit(method, loader=batches(8, 64))
    halves, two, _ = fit(method, loader=batches(16, 32), accumulate_grad_batches=2)
    assert halves.step == whole.step == 8
    assert halves.net.digest() == whole.net.digest()
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


# -- skipped steps -----------------------------------------------------------------------------------------------------


class Overflow(L.Callback):
    """Make one gradient infinite at chosen steps of the trainer."""

    def __init__(self, steps, *, name):
        self.steps, self.name = steps, name
        self.snapshots = []

    def on_after_backward(self, trainer, module):
        if trainer.global_step in self.steps:
            dict(module.named_parameters())[self.name].grad.view(-1)[0] = float("inf")

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.snapshots.append(self.snapshot(trainer, module))

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step - 1 in self.steps:
            assert self.snapshot(trainer, module) == self.snapshots[-1], "a skipped step has changed something"

    @staticmethod
    def snapshot(trainer, module):
        sparsity = next(c for c in trainer.callbacks if isinstance(c, Sparsity))
        state = dict(sparsity.net.tensors()), optimizer_tensors(trainer.optimizers[0])
        return sparsity.step, digest(dict(module.named_parameters())), *map(digest, state)


@pytest.mark.parametrize("name", ["head.weight", "head.bias"])
@pytest.mark.parametrize(
    "method", [RigL(density=0.2, every=2), DSTEE(c=1e-3, **ITOP), GMP(density=0.2, every=2, until=0.5)],
    ids=["rigl", "dst_ee", "gmp"],
)  # fmt: skip
def test_a_step_that_the_scaler_skips_changes_nothing(method, name):
    # step 2 of the trainer would be an update; 5 lies between updates
    overflow = Overflow({2, 5}, name=name)
    precision = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    sparsity, module, trainer = fit(method, callbacks=[overflow], plugins=[precision], max_epochs=2)
    assert trainer.global_step == 16
    assert sparsity.step == 14
    assert len(overflow.snapshots) == 16
    assert all(p.isfinite().all() for p in module.parameters())
    assert zeros_hold(sparsity, trainer)
    assert sum(sparsity.net.counts.values()) == round(0.2 * sum(p.numel() for p in sparsity.net.params.values()))


def test_masks_do_not_depend_on_the_loss_scale():
    digests = set()
    for scale in (1.0, 65536.0):
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=10**6)
        precision = MixedPrecision("bf16-mixed", "cpu")
        precision.scaler = scaler  # bfloat16 has float32's range: the scale must not show at all
        sparsity, module, _ = fit(DSTEE(c=1e-3, **ITOP), plugins=[precision])
        digests.add((sparsity.net.digest(), digest(dict(module.named_parameters()))))
    assert len(digests) == 1


def test_fused_optimizers_under_a_scaler_are_refused():
    """They unscale within their step: what a method sees before it would be scaled, and a skipped step not be told."""
    precision = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    fused = Foreign(lambda p: torch.optim.SGD(p, lr=0.05, fused=True))
    with pytest.raises(ValueError, match=r"SGD\(fused=True\) unscales gradients within its step"):
        fit(RigL(density=0.2, every=3), fused, plugins=[precision])
    fit(RigL(density=0.2, every=3), Foreign(lambda p: torch.optim.SGD(p, lr=0.05, fused=True)))


# -- optimizers --------------------------------------------------------------------------------------------------------


class Shaky(torch.optim.SGD):
    """Moves every weight, zeros too: what a method with closures or whole-matrix updates does."""

    @torch.no_grad()
    def step(self, closure=None):
        loss = super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                p.add_(0.01)
        return loss


def test_optimizers_that_are_not_elementwise_are_projected():
    sparsity, _, _ = fit(RigL(density=0.2, every=3), Foreign(lambda p: Shaky(p, lr=0.05)))
    assert zeros_hold(sparsity)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta", "SGD"])
def test_optimizers_that_are_trusted_keep_zeros(name):
    options = {"lr": 0.01, "weight_decay": 0.1}
    module = Foreign(lambda p: getattr(torch.optim, name)(p, **options))
    sparsity, _, trainer = fit(SET(density=0.2, every=3, until=0.8), module)
    # the norm of Adamax has its eps inside: it is not zero where gradients are, but the weights are
    assert zeros_hold(sparsity, None if name == "Adamax" else trainer)


@pytest.mark.parametrize("name", ["Adafactor", "Muon"])
def test_other_optimizers_of_torch_keep_zeros_too(name):
    if not hasattr(torch.optim, name):
        pytest.skip(f"this torch has no {name}")
    module = Foreign()
    module.build = lambda p: getattr(torch.optim, name)([q for q in p if q.dim() == 2], lr=0.01)
    sparsity = Sparsity(SET(density=0.2, every=3, until=0.8), prunable=Prunable(types=["linear"]))
    silent_trainer(callbacks=[sparsity]).fit(module, batches(8))
    assert zeros_hold(sparsity)


# -- other callbacks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("average", [lambda: EMAWeightAveraging(decay=0.9), WeightAveraging], ids=["ema", "swa"])
@pytest.mark.parametrize("method", [Static(density=0.2), RigL(density=0.2, every=2)], ids=["static", "rigl"])
def test_averages_of_weights_keep_the_zeros_of_the_mask(method, average, order):
    seen = []

    class Looking(Validated):
        def validation_step(self, batch, batch_idx):
            seen.append(all(not p.detach()[~sparsity.net.masks[n]].any() for n, p in sparsity.net.params.items()))

    module, sparsity, averaging = Looking(), Sparsity(method), average()
    callbacks = [averaging, sparsity] if order == "before" else [sparsity, averaging]
    trainer = silent_trainer(callbacks=callbacks, max_epochs=2)
    trainer.fit(module, batches(8), batches(1))
    assert seen == [True, True], "validation sees the average, projected onto the mask"
    assert zeros_hold(sparsity)

    unvalidated, averaging = Sparsity(method), average()
    callbacks = [averaging, unvalidated] if order == "before" else [unvalidated, averaging]
    silent_trainer(callbacks=callbacks, max_epochs=2).fit(Foreign(), batches(8))
    assert zeros_hold(unvalidated)


def test_deep_copy_in_mid_training_is_independent():
    copies = []

    class Copying(L.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if trainer.global_step == 3:
                copies.append((copy.deepcopy(module.body), copy.deepcopy(sparsity.net), sparsity.net.digest()))

    sparsity = Sparsity(RigL(density=0.2, every=2))
    trainer = silent_trainer(callbacks=[sparsity, Copying()], max_epochs=2)
    trainer.fit(Foreign(), batches(8))
    body, net, before = copies[0]
    assert net.digest() == before != sparsity.net.digest()
    assert all(net.params[n] is not p for n, p in sparsity.net.params.items())
    assert body(torch.zeros(1, 1, 8, 8)).isfinite().all()
    assert all(not p.detach()[~net.masks[n]].any() for n, p in net.params.items())


def test_the_loss_guard_stops_with_one_clear_line():
    with pytest.raises(
        FloatingPointError, match=r"the training loss is (nan|inf) after step 2: lower optimizer.lr"
    ) as caught:
        fit(Static(density=0.5), Foreign(lambda p: torch.optim.SGD(p, lr=1e30)), callbacks=[LossGuard()])
    assert "\n" not in str(caught.value)


def test_two_fits_of_one_callback_go_on():
    sparsity, module = Sparsity(GMP(density=0.2, every=2), total_steps=8), Foreign()
    silent_trainer(callbacks=[sparsity], max_epochs=1).fit(module, batches(4))
    assert sparsity.net.density > 0.2
    silent_trainer(callbacks=[sparsity], max_epochs=1).fit(module, batches(4))
    assert sparsity.step == 8


def test_masks_are_no_part_of_the_module():
    module = Foreign()
    keys = set(module.state_dict())
    fit(RigL(density=0.2, every=2), module)
    assert set(module.state_dict()) == keys
    assert not dict(module.named_buffers())
    again = Foreign()
    again.load_state_dict(module.state_dict())
    assert isinstance(again.head, nn.Linear)
