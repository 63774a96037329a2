"""Sparsity over the life of a program: several fits, tuners, evaluation, resumption, other people's optimizers.

Each is something that a user did in the first week, and that once ended dense or off target without a word.
"""

import re
import warnings

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateFinder
from lightning.pytorch.tuner import Tuner
from support import Foreign, Validated, batches, silent_trainer
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from sparsebench.cost.flops import layer_costs
from sparsebench.cost.ledger import Ledger
from sparsebench.engine import Sparsity
from sparsebench.methods import GMP, SNIP, STR, Clock, MultilevelBregman, ProbMask, RigL, SRigL, Static, TopKAST
from sparsebench.sparse import Prunable

RIGL = RigL(density=0.1, every=2)
SIZE = 4 * 9 + 144 * 16 + 16 * 10


def name_of(method):
    return type(method).__name__


def zeros_of(module):
    weights = [p for p in module.parameters() if p.dim() > 1]
    return 1 - sum(int(p.count_nonzero()) for p in weights) / SIZE


class Tunable(Foreign):
    """A module whose learning rate a tuner may look for."""

    def __init__(self):
        super().__init__()
        self.lr = 0.05

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


class Loaded(L.LightningDataModule):
    """Data whose batch size a tuner may look for."""

    def __init__(self):
        super().__init__()
        self.batch_size = 16

    def train_dataloader(self):
        return batches(8, self.batch_size)


# -- several fits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", [RigL(density=0.1, every=2), GMP(density=0.1, every=2), SNIP(density=0.1)], ids=name_of
)
def test_a_callback_that_is_used_for_a_new_model_begins_anew(method):
    fresh = Sparsity(method)
    module = Foreign()
    silent_trainer(callbacks=[fresh], max_epochs=2).fit(module, batches(8))
    digest, zeros = fresh.net.digest(), zeros_of(module)

    used = Sparsity(method)
    silent_trainer(callbacks=[used]).fit(Foreign(), batches(4))
    again = Foreign()
    silent_trainer(callbacks=[used], max_epochs=2).fit(again, batches(8))
    assert used.clock == Clock(16, 16)
    assert used.net.digest() == digest, "the second fit is that of a new callback"
    assert zeros_of(again) == zeros >= 0.9 - 1e-3


def test_costs_are_those_of_the_fit():
    ledger = Ledger(layer_costs(Foreign(), torch.zeros(1, 1, 8, 8)))
    sparsity, spent = Sparsity(GMP(density=0.1, every=2), ledger=ledger), []
    for _ in range(2):
        silent_trainer(callbacks=[sparsity]).fit(Foreign(), batches(8))
        spent.append(ledger.state_dict())
    assert spent[0] == spent[1]
    assert ledger.steps == 8


@pytest.mark.parametrize("method", [RigL(density=0.1, every=2), GMP(density=0.1, every=2), TopKAST(density=0.1),
                                    STR(density=0.1, every=2), ProbMask(density=0.1)], ids=name_of)  # fmt: skip
def test_the_same_trainer_goes_on_when_max_epochs_is_raised(method):
    sparsity, module = Sparsity(method), Foreign()
    trainer = silent_trainer(callbacks=[sparsity], max_epochs=1)
    trainer.fit(module, batches(8))
    before = sparsity.net.version
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, batches(8))
    assert sparsity.clock == Clock(16, 16), "the steps of this fit"
    if not isinstance(method, STR | ProbMask):  # whose masks stay once they are fixed
        assert sparsity.net.version > before, "the second fit has updates of its own"
    assert sparsity.target_reached
    assert zeros_of(module) == pytest.approx(0.9, abs=1e-3)


@pytest.mark.filterwarnings("ignore:no mask update")
def test_rigl_keeps_what_it_has_learned_when_the_same_module_is_trained_again():
    sparsity, module = Sparsity(RigL(density=0.1, every=100)), Foreign()
    silent_trainer(callbacks=[sparsity]).fit(module, batches(8))
    digest = sparsity.net.digest()
    silent_trainer(callbacks=[sparsity]).fit(module, batches(8))
    assert sparsity.net.digest() == digest, "random masks drawn anew would throw trained weights away"


def test_a_fit_with_nothing_left_to_do_says_so():
    sparsity, module = Sparsity(RigL(density=0.1, every=2)), Foreign()
    trainer = silent_trainer(callbacks=[sparsity])
    trainer.fit(module, batches(8))
    with pytest.raises(ValueError, match=r"a training of 0 steps is impossible: set max_epochs"):
        trainer.fit(module, batches(8))


# -- tuners ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [RigL(density=0.1, every=2), SNIP(density=0.1), Static(density=0.1), GMP(density=0.1, every=2),
     TopKAST(density=0.1), STR(density=0.1, every=2)],
    ids=name_of,
)  # fmt: skip
@pytest.mark.parametrize("what", ["lr_find", "scale_batch_size"])
def test_a_tuner_before_fit_changes_nothing_about_sparsity(method, what, tmp_path):
    def trained(tuned):
        sparsity, module, data = Sparsity(method), Tunable(), Loaded()
        trainer = silent_trainer(callbacks=[sparsity], max_epochs=2, default_root_dir=tmp_path)
        if tuned:
            options = {"update_attr": False, "num_training": 6} if what == "lr_find" else {"max_trials": 1}
            getattr(Tuner(trainer), what)(module, datamodule=data, **options)
            data.batch_size, module.lr = 16, 0.05
        trainer.fit(module, data)
        return sparsity, module

    (plain, one), (tuned, two) = trained(False), trained(True)
    assert tuned.net.masks, "masks exist"
    assert tuned.clock == plain.clock
    assert tuned.net.digest() == plain.net.digest()
    assert zeros_of(two) == zeros_of(one)


@pytest.mark.parametrize("order", ["before", "after"])
def test_a_learning_rate_finder_among_the_callbacks(order, tmp_path):
    sparsity, finder = Sparsity(GMP(density=0.1, every=2)), LearningRateFinder(num_training_steps=5, update_attr=False)
    callbacks = [finder, sparsity] if order == "before" else [sparsity, finder]
    module = Tunable()
    silent_trainer(callbacks=callbacks, default_root_dir=tmp_path).fit(module, batches(8))
    assert sparsity.clock == Clock(8, 8)
    assert zeros_of(module) == pytest.approx(0.9, abs=1e-3)


# -- the budget --------------------------------------------------------------------------------------------------------


class Endless(IterableDataset):
    """Data without a length."""

    def __iter__(self):
        generator = torch.Generator().manual_seed(0)
        for _ in range(64):
            yield torch.randn(1, 8, 8, generator=generator), torch.randint(0, 10, (), generator=generator)


def test_an_unknown_length_is_refused_and_a_given_budget_is_taken():
    loader = DataLoader(Endless(), batch_size=16)
    with pytest.raises(ValueError, match=r"have no length.*Sparsity\(total_steps=\.\.\.\)"):
        silent_trainer(callbacks=[Sparsity(GMP(density=0.1))], max_epochs=3).fit(Foreign(), loader)
    module = Foreign()
    sparsity = Sparsity(GMP(density=0.1, every=2), total_steps=12)
    silent_trainer(callbacks=[sparsity], max_epochs=3).fit(module, loader)
    assert zeros_of(module) == pytest.approx(0.9, abs=1e-3)


def test_training_without_an_end_names_the_budget():
    with pytest.raises(ValueError, match=r"no end.*Sparsity\(total_steps=\.\.\.\)"):
        silent_trainer(callbacks=[Sparsity(Static())], max_epochs=-1).fit(Foreign(), batches(2))
    with pytest.raises(ValueError, match=r"Sparsity\(total_steps=0\) is impossible"):
        Sparsity(Static(), total_steps=0)


# -- what was reached and what was asked for ---------------------------------------------------------------------------


class Stop(L.Callback):
    """End training after some steps, as early stopping and a time limit do."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        trainer.should_stop = trainer.should_stop or trainer.global_step >= self.step


def test_early_stopping_is_told_with_both_numbers():
    class Flat(Validated):
        def validation_step(self, batch, batch_idx):
            self.log("val_loss", 1.0)

    sparsity = Sparsity(GMP(density=0.1, every=2))
    trainer = silent_trainer(callbacks=[sparsity, EarlyStopping("val_loss", patience=1)], max_epochs=9)
    line = r"sparsity 0\.\d+ was reached, 0\.9000 was requested: training ended at step 16 of 72"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trainer.fit(Flat(), batches(8), batches(1))
    assert [str(warning.message) for warning in told if re.match(line, str(warning.message))]
    assert sparsity.target_reached is False


@pytest.mark.parametrize("method", [RigL(density=0.1, every=2), Static(density=0.1), SNIP(density=0.1),
                                    STR(density=0.1, every=2), TopKAST(density=0.1)], ids=name_of)  # fmt: skip
def test_methods_that_are_on_target_at_any_time_say_nothing(method):
    sparsity = Sparsity(method)
    silent_trainer(callbacks=[sparsity, Stop(5)], max_epochs=4).fit(Foreign(), batches(8))
    assert sparsity.target_reached is True


@pytest.mark.parametrize(("method", "may_be_less"), [(SRigL(density=0.1, every=2), True), (RIGL, False)], ids=name_of)
def test_only_a_method_that_promises_at_most_may_end_with_less(method, may_be_less):
    sparsity = Sparsity(method)
    silent_trainer(callbacks=[sparsity]).fit(Foreign(), batches(8))
    assert sparsity.target_reached
    name, mask = next(iter(sparsity.net.masks.items()))
    for value, reached in ((False, may_be_less), (True, False)):
        other = mask.clone()
        other.view(-1)[(mask.view(-1) != value).nonzero()[0]] = value
        sparsity.net.set_masks({name: other})
        assert sparsity.target_reached is reached


def test_a_dense_checkpoint_is_pruned_in_the_steps_that_are_left(tmp_path):
    dense = silent_trainer(max_epochs=1)
    dense.fit(Foreign(), batches(8))
    dense.save_checkpoint(tmp_path / "dense.ckpt")
    sparsity, module = Sparsity(GMP(density=0.1, every=2)), Foreign()
    trainer = silent_trainer(callbacks=[sparsity], max_epochs=3)
    trainer.fit(module, batches(8), ckpt_path=tmp_path / "dense.ckpt")
    assert sparsity.clock == Clock(16, 16)
    assert zeros_of(module) == pytest.approx(0.9, abs=1e-3)

    trainer.save_checkpoint(tmp_path / "sparse.ckpt")
    later, module = Sparsity(GMP(density=0.1, every=2)), Foreign()
    silent_trainer(callbacks=[later], max_epochs=4).fit(module, batches(8), ckpt_path=tmp_path / "sparse.ckpt")
    assert later.clock == Clock(24, 24), "the dense steps stay outside of the clock"


# -- resumption --------------------------------------------------------------------------------------------------------


def saved(path, method, **options):
    sparsity, module = Sparsity(method), Foreign()
    trainer = silent_trainer(callbacks=[sparsity], **options)
    trainer.fit(module, batches(8))
    trainer.save_checkpoint(path)
    return sparsity, module


@pytest.mark.parametrize("other", [RigL(density=0.5, every=2), GMP(density=0.1, every=2)], ids=["density", "method"])
def test_another_density_or_method_is_refused(other, tmp_path):
    saved(tmp_path / "a.ckpt", RigL(density=0.1, every=2))
    with pytest.raises(ValueError, match=r"to RigL at sparsity 0\.9, this training to \w+ at sparsity") as error:
        silent_trainer(callbacks=[Sparsity(other)], max_epochs=2).fit(
            Foreign(), batches(8), ckpt_path=tmp_path / "a.ckpt"
        )
    assert "\n" not in str(error.value)


# -- evaluation in a new process ---------------------------------------------------------------------------------------


class Evaluated(Validated):
    """A module that can be tested and asked."""

    def test_step(self, batch, batch_idx):
        self.log("test_loss", self.training_step(batch, batch_idx))

    def predict_step(self, batch, batch_idx):
        return self(batch[0])


@pytest.mark.parametrize("stage", ["test", "validate"])
@pytest.mark.parametrize(
    "method",
    [RigL(density=0.1, every=2), GMP(density=0.1, every=2), STR(density=0.1), ProbMask(density=0.1)],
    ids=name_of,
)
def test_a_checkpoint_is_evaluated_without_a_fit(method, stage, tmp_path):
    first, _ = saved(tmp_path / "a.ckpt", method)
    sparsity = Sparsity(method)
    trainer = silent_trainer(callbacks=[sparsity])
    [found] = getattr(trainer, stage)(Evaluated(), batches(2), ckpt_path=tmp_path / "a.ckpt", verbose=False)
    assert all(value > 0 for value in found.values())
    assert sparsity.net.digest() == first.net.digest()
    assert trainer.predict(Evaluated(), batches(1), ckpt_path=tmp_path / "a.ckpt")


@pytest.mark.parametrize("method", [TopKAST(density=0.1), STR(density=0.1, initial=-3.0, topk_at=1.0)], ids=name_of)
def test_a_checkpoint_from_mid_training_is_evaluated_with_the_weights_that_training_sees(method, tmp_path):
    class Save(L.Callback):
        def on_validation_end(self, trainer, module):
            self.loss = float(trainer.callback_metrics["val_loss"])
            trainer.save_checkpoint(tmp_path / "mid.ckpt")

    save = Save()
    trainer = silent_trainer(callbacks=[Sparsity(method), save, Stop(8)], max_epochs=3)
    trainer.fit(Validated(), batches(8), batches(2))
    for stage, key in (("validate", "val_loss"), ("test", "test_loss")):
        trainer = silent_trainer(callbacks=[Sparsity(method)])
        [found] = getattr(trainer, stage)(Evaluated(), batches(2), ckpt_path=tmp_path / "mid.ckpt", verbose=False)
        assert found[key] == pytest.approx(save.loss, rel=1e-6)


def test_evaluation_of_an_untrained_module_needs_no_masks():
    module = Evaluated()
    silent_trainer(callbacks=[Sparsity(TopKAST(density=0.1))]).test(module, batches(1), verbose=False)
    assert zeros_of(module) < 0.01


# -- other people's optimizers -----------------------------------------------------------------------------------------


class Manual(Foreign):
    """Manual optimization, with optimizers as Lightning wraps them or raw."""

    def __init__(self, raw=True, closure=False):
        super().__init__()
        self.automatic_optimization = False
        self.raw, self.closure = raw, closure

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers(use_pl_optimizer=not self.raw)

        def loss():
            optimizer.zero_grad()
            value = super(Manual, self).training_step(batch, batch_idx)
            value.backward()
            return value

        if self.closure:
            optimizer.step(loss)
        else:
            loss()
            optimizer.step()


def test_raw_optimizers_of_manual_optimization_are_heard():
    plain, raw = (Sparsity(RigL(density=0.1, every=2)) for _ in range(2))
    modules = Manual(raw=False), Manual(raw=True)
    for sparsity, module in zip((plain, raw), modules, strict=True):
        silent_trainer(callbacks=[sparsity], max_epochs=2).fit(module, batches(8))
    assert raw.net.version == plain.net.version > 3
    assert raw.net.digest() == plain.net.digest()
    assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in modules), strict=True))


def test_raw_steps_with_a_closure_are_refused():
    with pytest.raises(ValueError, match=r"SGD\.step\(closure\) was called outside of Lightning"):
        silent_trainer(callbacks=[Sparsity(Static())]).fit(Manual(closure=True), batches(2))


class Two(Manual):
    """Two optimizers, each with a part of the network."""

    def __init__(self, raw=False, twice=False):
        super().__init__(raw)
        self.twice = twice

    def configure_optimizers(self):
        first = torch.optim.SGD(self.body.parameters(), lr=0.05, momentum=0.9)
        return first, torch.optim.SGD(self.head.parameters(), lr=0.05, momentum=0.9)

    def training_step(self, batch, batch_idx):
        one, two = self.optimizers(use_pl_optimizer=not self.raw)
        self.zero_grad()
        Foreign.training_step(self, batch, batch_idx).backward()
        for optimizer in (one, one, two) if self.twice else (one, two):
            optimizer.step()


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(
    "method", [RigL(density=0.1, every=2), RigL(density=0.1, every=2, replaces_step=False), GMP(density=0.1, every=2)],
    ids=["rigl", "itop", "gmp"],
)  # fmt: skip
def test_two_optimizers_that_share_the_sparse_parameters_train_as_one_does(method, raw):
    one, two = Sparsity(method), Sparsity(method)
    modules = Manual(), Two(raw)
    for sparsity, module in zip((one, two), modules, strict=True):
        silent_trainer(callbacks=[sparsity], max_epochs=2).fit(module, batches(8))
    assert two.clock == one.clock == Clock(16, 16)
    assert two.net.digest() == one.net.digest()
    assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in modules), strict=True))


def test_optimizers_that_share_the_sparse_parameters_must_take_turns():
    with pytest.raises(ValueError, match="SGD and SGD hold sparse parameters and must take turns"):
        silent_trainer(callbacks=[Sparsity(Static())]).fit(Two(twice=True), batches(2))


def test_muon_beside_adamw():
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")

    class Mixed(Two):
        def configure_optimizers(self):
            flat = [p for p in self.parameters() if p.dim() == 2]
            rest = [p for p in self.parameters() if p.dim() != 2]
            return torch.optim.Muon(flat, lr=0.01), torch.optim.AdamW(rest, lr=0.01)

    sparsity, module = Sparsity(RigL(density=0.1, every=2)), Mixed()
    silent_trainer(callbacks=[sparsity], max_epochs=2).fit(module, batches(8))
    assert sparsity.clock == Clock(16, 16)
    assert zeros_of(module) >= 0.9 - 1e-3
    assert all(not p.detach()[~sparsity.net.masks[n]].any() for n, p in sparsity.net.params.items())


def test_a_generator_is_sparse_and_its_adversary_is_not():
    class Adversaries(L.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.automatic_optimization = False
            self.generator = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 64))
            self.critic = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 1))

        def configure_optimizers(self):
            return [torch.optim.Adam(net.parameters(), 1e-3) for net in (self.critic, self.generator)]

        def training_step(self, batch, batch_idx):
            critic, generator = self.optimizers()
            images = batch[0].flatten(1)
            fakes = self.generator(torch.randn(len(images), 4))
            critic.zero_grad()
            self.manual_backward(self.critic(fakes.detach()).mean() - self.critic(images).mean())
            critic.step()
            generator.zero_grad()
            self.manual_backward(-self.critic(fakes).mean())
            generator.step()

    sparsity, module = Sparsity(RigL(density=0.1, every=2), module="generator"), Adversaries()
    silent_trainer(callbacks=[sparsity], max_epochs=2).fit(module, batches(8))
    assert sparsity.clock == Clock(16, 16)
    assert sparsity.net.version > 3
    assert all(not p.detach()[~sparsity.net.masks[n]].any() for n, p in sparsity.net.params.items())
    assert all(bool((p != 0).all()) for p in module.critic.parameters() if p.dim() > 1)


# -- what it says ------------------------------------------------------------------------------------------------------


def test_the_callback_logs_and_shows_itself():
    sparsity = Sparsity(GMP(density=0.1, every=2))
    assert repr(sparsity) == "Sparsity(GMP(density=0.1, every=2); not started)"
    trainer = silent_trainer(callbacks=[sparsity])
    trainer.fit(Foreign(), batches(8))
    assert float(trainer.callback_metrics["sparsity"]) == pytest.approx(0.9)
    assert repr(sparsity) == "Sparsity(GMP(density=0.1, every=2); step 8, sparsity 0.9000)"
    lines = sparsity.summary().splitlines()
    assert [line.split()[0] for line in lines] == ["layer", "body.0.weight", "body.3.weight", "head.weight", "total"]
    assert lines[-1].split()[1:] == [str(SIZE), "250", "0.9000"]
    assert "16x144" in lines[2]


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: RigL(sparsity=0.9), r"takes the density that stays, not sparsity=0\.9: write RigL\(density=0\.1\)"),
        (lambda: RigL(0.1), r"RigL takes its settings by name, 0\.1 was given without one: write RigL\(density=0\.1\)"),
        (lambda: RigL(densty=0.1), r"RigL has no setting 'densty' \(did you mean 'density'\?\)"),
        (lambda: Sparsity("rigl"), r"takes a method, 'rigl' was given: write Sparsity\(RigL\(density=0\.1\)\)"),
        (lambda: Sparsity(TopKAST), r"write Sparsity\(TopKAST\(density=0\.1\)\)"),
        (lambda: Sparsity(0.9), r"Sparsity takes a method, 0\.9 was given"),
    ],
)  # fmt: skip
def test_what_was_meant_is_answered_with_what_to_write(make, line):
    with pytest.raises(ValueError, match=line) as error:
        make()
    assert "\n" not in str(error.value)


def test_signatures_and_copies_of_methods_are_whole():
    import copy
    import dataclasses
    import inspect
    import pickle

    assert list(inspect.signature(RigL).parameters)[:2] == ["density", "distribution"]
    method = RigL(density=0.2, every=3)
    assert pickle.loads(pickle.dumps(method)) == copy.deepcopy(method) == method
    assert dataclasses.replace(method, every=4) == RigL(density=0.2, every=4)


def test_prunable_and_module_are_respected_by_the_summary():
    sparsity = Sparsity(Static(density=0.5), module="body", prunable=Prunable(types=["linear"]))
    silent_trainer(callbacks=[sparsity]).fit(Foreign(), batches(2))
    assert sparsity.summary().splitlines()[1].split()[:2] == ["3.weight", "16x144"]


def test_multilevel_bregman_keeps_its_word_only_where_a_quantile_decides():
    net = Sparsity(Static()).target_reached
    assert net is True
    assert MultilevelBregman().promised(None) is None
