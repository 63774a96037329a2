"""What every method promises, held for every YAML of conf/method: a method is tested before its author writes a test.

Exceptions are stated by the method itself (the class field ``exceptions``: promise -> reason), never here.
"""

from __future__ import annotations

import copy
import csv
from functools import cached_property, partial
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging
from lightning.pytorch.plugins.precision import MixedPrecision
from support import optimizer_tensors

from sparsebench.app.config.build import build_run, build_setup
from sparsebench.app.config.compose import compose_config
from sparsebench.app.config.tree import conf_dir
from sparsebench.app.process.console import quieten
from sparsebench.engine import Sparsity
from sparsebench.fits import State, evaluate
from sparsebench.functional.select import keep_top_global
from sparsebench.methods import Method
from sparsebench.methods.given import Given
from sparsebench.results.record import densities_of
from sparsebench.sparse import digest

SPARSITY = 0.5
STEPS, EPOCHS, PER_EPOCH = 36, 3, 12
SETTINGS = [
    "dataset=digits", "dataset.limit=192", "dataset.batch_size=16", "dataset.augment=false", f"sparsity={SPARSITY}",
    "every=3", f"trainer.max_epochs={EPOCHS}", "progress=none",
]  # fmt: skip
ACCELERATORS = {"cpu": "cpu", "cuda": "gpu"}
MODELS = {"mlp": ["model=mlp", "model.hidden=[24]"], "cnn": ["model=digits_cnn", "model.width=8"]}
WRAPPED = ["optimizer=ham", "optimizer@optimizer.base=sparse_opt", "optimizer.lr=0.02"]
PROMISES = ("budget", "resume", "ranks", "accumulation", "bf16", "skip", "zeros", "growth", "export")
TIMES = ("seconds", "images_per_second", "peak_memory_mb")


def methods() -> list[str]:
    """Every YAML that names a class; one that does not is a base of others."""
    return [
        path.relative_to(conf_dir() / "method").with_suffix("").as_posix()
        for path in sorted((conf_dir() / "method").rglob("*.yaml"))
        if "_target_" in yaml.safe_load(path.read_text())
    ]


class Watch(L.Callback):
    """Look at the sparse state after every optimizer step; stop, or spoil a gradient, at chosen steps."""

    def __init__(self, *, stop_at: int | None = None, overflow_at: tuple[int, ...] = ()) -> None:
        self.stop_at, self.overflow_at = stop_at, overflow_at
        self.counts: list[dict[str, int]] = []
        self.revived: list[str] = []
        self.born_old: list[str] = []
        self.changed: list[int] = []
        self.validated: list[bool] = []
        self._masks: dict = {}
        self._before = None

    @staticmethod
    def sparsity(trainer) -> Sparsity:
        return next(callback for callback in trainer.callbacks if isinstance(callback, Sparsity))

    def snapshot(self, trainer, module):
        sparsity = self.sparsity(trainer)
        state = dict(sparsity.net.tensors()), optimizer_tensors(trainer.optimizers[0])
        return sparsity.step, digest(dict(module.net.named_parameters())), *map(digest, state)

    def on_train_start(self, trainer, module):
        net = self.sparsity(trainer).net
        self._masks = {name: mask.clone() for name, mask in net.masks.items()}
        self.counts.append(dict(net.counts))

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step in self.overflow_at:
            self._before = self.snapshot(trainer, module)

    def on_after_backward(self, trainer, module):
        if trainer.global_step in self.overflow_at:
            module.net.fc.bias.grad[0] = float("inf")

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if self._before is not None:
            if self.snapshot(trainer, module) != self._before:
                self.changed.append(trainer.global_step)
            self._before = None
        if trainer.global_step == self.stop_at:
            raise Stopped
        self._look(trainer, self.sparsity(trainer))

    def _look(self, trainer, sparsity):
        net, optimizer = sparsity.net, trainer.optimizers[0]
        self.counts.append(dict(net.counts))
        for name, mask in net.masks.items():
            parameter = net.params[name]
            if sparsity.method.zeros == "stored" and parameter.detach()[~mask].any():
                self.revived.append(f"{name} at {sparsity.step}")
            grown = mask & ~self._masks[name] if name in self._masks else torch.zeros_like(mask)
            state = [v for v in optimizer.state[parameter].values() if torch.is_tensor(v) and v.shape == mask.shape]
            if any(bool(tensor.detach()[grown].any()) for tensor in (parameter, *state)):
                self.born_old.append(f"{name} at {sparsity.step}")
        self._masks = {name: mask.clone() for name, mask in net.masks.items()}

    def on_validation_batch_start(self, trainer, module, batch, batch_idx, dataloader_idx=0):
        sparsity = self.sparsity(trainer)
        if sparsity.method.zeros == "stored":
            net = sparsity.net
            self.validated.append(all(not net.params[n].detach()[~m].any() for n, m in net.masks.items()))


class Stopped(Exception):
    """Stands for a kill."""


class Subject:
    """A method and its short fits, each made when it is first asked for."""

    def __init__(self, name: str, folder: Path, model: str = "mlp", *overrides: str, device: str = "cpu") -> None:
        self.name, self.folder, self.device = name, folder, device
        where = f"trainer.accelerator={ACCELERATORS[device]}"
        self.config = compose_config([f"method={name}", *SETTINGS, where, *MODELS[model], *overrides])
        self.method: Method = build_setup(self.config).method

    def run(self, name, *callbacks, trainer=None, save_steps=None):
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        run = build_run(copy.deepcopy(self.config), folder)
        trainer = partial(run.setup.trainer, **(trainer or {}))
        return run.replace(progress=lambda: callbacks, save_steps=save_steps, trainer=trainer)

    def fit(self, name, *callbacks, **options):
        quieten()
        run = self.run(name, *callbacks, **options)
        try:
            return run.fit("single", self.start(run), alone=True)
        finally:
            run.close_loggers()

    def start(self, run) -> State | None:
        """Hand random masks to a method that takes its masks from a recipe; nothing to the others."""
        if not isinstance(self.method, Given):
            return None
        weights = run.initial().weights
        scores = {
            name: torch.rand(p.shape, generator=torch.Generator().manual_seed(0)) for name, p in self.params.items()
        }
        masks = keep_top_global(scores, self.target)
        return State({name: w * masks[name] if name in masks else w for name, w in weights.items()}, masks)

    @cached_property
    def plain(self):
        watch = Watch()
        return self.fit("plain", watch), watch

    @property
    def size(self) -> int:
        return sum(p.numel() for p in self.params.values())

    @cached_property
    def params(self):
        run = self.run("plain")
        return run.setup.prunable.select(run.setup.network())

    @property
    def target(self) -> int:
        return round((1 - SPARSITY) * self.size) if hasattr(self.method, "density") else self.size

    def active(self, state) -> int:
        shares = densities_of(self.params, state.weights, state.masks)
        return sum(round(share * self.params[name].numel()) for name, share in shares.items())

    def meets_budget(self, state) -> None:
        if self.method.budget_holds != "never" and "budget" not in self.method.exceptions:
            assert self.active(state) == self.target
            assert sum(int(state.weights[n].count_nonzero()) for n in self.params) <= self.target


def subjects():
    """Every method, on the processor and once more on a GPU."""
    for name in methods():
        yield pytest.param((name, "cpu"), id=name)
        yield pytest.param((name, "cuda"), id=f"{name}-cuda", marks=pytest.mark.gpu)


@pytest.fixture(scope="module", params=subjects())
def subject(request, tmp_path_factory):
    name, device = request.param
    return Subject(name, tmp_path_factory.mktemp(f"{name.replace('/', '_')}_{device}"), device=device)


@pytest.fixture(scope="module")
def convolutional(subject):
    """The same method on a network with convolutions and batch norm."""
    folder = subject.folder / "cnn"
    folder.mkdir()
    return Subject(subject.name, folder, "cnn", device=subject.device)


def promised(subject, promise):
    if promise in subject.method.exceptions:
        pytest.skip(f"{subject.name} states: {subject.method.exceptions[promise]}")


def test_exceptions_are_known_promises_with_reasons(subject):
    assert set(subject.method.exceptions) <= set(PROMISES)
    assert all(len(reason) > 20 for reason in subject.method.exceptions.values())
    assert subject.method.budget_holds in ("always", "end", "never")


def test_trains(subject):
    state, watch = subject.plain
    assert state.facts["steps"] == STEPS
    assert len(watch.counts) == STEPS + 1
    assert all(w.isfinite().all() for w in state.weights.values())
    with (subject.folder / "plain" / "metrics.csv").open() as file:
        losses = [float(row["train_loss"]) for row in csv.DictReader(file) if row["train_loss"]]
    assert len(losses) == EPOCHS
    assert losses[-1] < losses[0]


def test_meets_the_budget_whenever_it_promises(subject):
    promised(subject, "budget")
    state, watch = subject.plain
    subject.meets_budget(state)
    if subject.method.budget_holds == "always":
        assert {sum(counts.values()) for counts in watch.counts} == {subject.target}


def test_accounts_for_its_cost(subject):
    facts = subject.plain[0].facts
    assert 0 < facts["train_flops"] <= 1.01 * facts["executed_flops"]
    assert facts["train_flops_dense"] > 0


def test_resumes_bit_for_bit_in_mid_epoch(subject):
    promised(subject, "resume")
    state, _ = subject.plain
    with pytest.raises(Stopped):
        subject.fit("resumed", Watch(stop_at=PER_EPOCH + 5), save_steps=5)
    assert (subject.folder / "resumed" / "single.ckpt").exists()
    again = subject.fit("resumed", Watch(), save_steps=5)
    assert digest(again.masks) == digest(state.masks)
    assert digest(again.weights) == digest(state.weights)
    assert {k: v for k, v in again.facts.items() if k not in TIMES} == {
        k: v for k, v in state.facts.items() if k not in TIMES
    }
    rows = [(subject.folder / name / "metrics.csv").read_text() for name in ("plain", "resumed")]
    assert rows[0] == rows[1]


def test_goes_with_wrapped_optimizers_and_resumes(subject):
    promised(subject, "resume")
    if "regularizer" in subject.config["optimizer"]:
        pytest.skip("its own optimizer computes the weights from a dual: nothing else may change them")
    folder = subject.folder / "wrapped"
    folder.mkdir()
    wrapped = Subject(subject.name, folder, "mlp", *WRAPPED, device=subject.device)
    state, watch = wrapped.plain
    assert digest(state.weights) != digest(subject.plain[0].weights)
    assert watch.revived == []
    wrapped.meets_budget(state)
    with pytest.raises(Stopped):
        wrapped.fit("resumed", Watch(stop_at=PER_EPOCH + 5), save_steps=5)
    assert digest(wrapped.fit("resumed", Watch(), save_steps=5).weights) == digest(state.weights)


def test_repeats_bit_for_bit(subject):
    torch.rand(7)  # the global generator must not matter
    again = subject.fit("again")
    assert digest(again.weights) == digest(subject.plain[0].weights)


def test_survives_accumulation(subject):
    promised(subject, "accumulation")
    watch = Watch()
    state = subject.fit("accumulation", watch, trainer={"accumulate_grad_batches": 2, "max_epochs": 4})
    assert state.facts["steps"] == 24
    subject.meets_budget(state)
    assert watch.revived == []


def test_survives_bfloat16_on_convolutions_in_channels_last(convolutional):
    promised(convolutional, "bf16")
    convolutional.config["trainer"]["channels_last"] = True
    watch = Watch()
    state = convolutional.fit("bf16", watch, trainer={"precision": "bf16-mixed"})
    assert all(w.isfinite().all() for w in state.weights.values())
    assert watch.revived == []
    convolutional.meets_budget(state)


def test_a_skipped_step_changes_nothing(subject):
    promised(subject, "skip")
    # a scaler skips a step whose gradients overflow; on a CPU Lightning knows none
    precision = MixedPrecision("bf16-mixed" if subject.device == "cpu" else "16-mixed", subject.device)
    precision.scaler = torch.amp.GradScaler(subject.device, init_scale=1024.0)
    watch = Watch(overflow_at=(3, 9, 16))  # a multiple of `every` among them
    state = subject.fit("skip", watch, trainer={"precision": None, "plugins": [precision]})
    assert watch.changed == []
    assert state.facts["steps"] == STEPS - 3
    subject.meets_budget(state)


def test_never_revives_a_zero(subject):
    promised(subject, "zeros")
    assert subject.plain[1].revived == []


@pytest.mark.parametrize("average", [lambda: EMAWeightAveraging(decay=0.9), WeightAveraging], ids=["ema", "swa"])
def test_averaging_revives_no_zero(subject, average):
    promised(subject, "zeros")
    watch = Watch()
    state = subject.fit(f"average{average.__name__}", average(), watch)
    assert all(watch.validated)
    subject.meets_budget(state)
    assert all(not state.weights[n][~m].any() for n, m in state.masks.items())


def test_grown_weights_and_their_moments_start_at_zero(subject):
    promised(subject, "growth")
    assert subject.plain[1].born_old == []


def test_exports_a_plain_state_dict(convolutional, tmp_path):
    promised(convolutional, "export")
    convolutional.config["trainer"]["channels_last"] = False
    state = convolutional.fit("export")
    torch.save(dict(state.weights), tmp_path / "final.pt")
    run = convolutional.run("export")
    network = run.setup.network()
    network.load_state_dict(torch.load(tmp_path / "final.pt", weights_only=True))
    params = dict(network.named_parameters())
    assert all(not params[name].detach()[~mask].any() for name, mask in state.masks.items())
    convolutional.meets_budget(state)
    measured = evaluate(run.setup, state, split="validation")
    if convolutional.method.zeros == "stored":
        assert measured["val_accuracy"] == pytest.approx(state.facts["val_accuracy"])
