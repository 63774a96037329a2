"""Bregman methods through configuration, engine and optimizer: groups, resumption inside a phase, presets, errors."""

from __future__ import annotations

from functools import partial

import lightning as L
import pytest
import torch
import yaml

from sparsebench.app.config.build import build_run
from sparsebench.app.config.check import check_config
from sparsebench.app.config.compose import compose_config
from sparsebench.app.config.tree import conf_dir
from sparsebench.app.process.console import quieten
from sparsebench.engine import Sparsity
from sparsebench.sparse import digest

SETTINGS = [
    "model=digits_cnn", "model.width=8", "dataset=digits", "dataset.limit=192", "dataset.batch_size=16",
    "dataset.augment=false", "trainer.accelerator=cpu", "progress=none", "optimizer.lr=0.2", "trainer.max_epochs=2",
]  # fmt: skip
PER_EPOCH = 12


class Stopped(Exception):
    """Stands for a kill."""


class Watch(L.Callback):
    def __init__(self, stop_at=None):
        self.stop_at, self.optimizer, self.phases, self.sparsities = stop_at, None, [], []

    def on_train_start(self, trainer, module):
        self.sparsity = next(callback for callback in trainer.callbacks if isinstance(callback, Sparsity))
        self.optimizer = trainer.optimizers[0]
        self.sparsities.append(1 - self.sparsity.net.density)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.phases.append(self.optimizer.param_groups[0].get("phase"))
        self.sparsities.append(1 - self.sparsity.net.density)
        if trainer.global_step == self.stop_at:
            raise Stopped


def fit(folder, *overrides, watch=None, save_steps=None, **trainer):
    quieten()
    folder.mkdir(exist_ok=True)
    run = build_run(compose_config([*SETTINGS, *overrides]), folder)
    watch = watch or Watch()
    trainer = partial(run.setup.trainer, **trainer)
    run = run.replace(progress=lambda: [watch], save_steps=save_steps, trainer=trainer)
    try:
        return run.fit("single", alone=True), watch
    finally:
        run.close_loggers()


def test_a_method_brings_its_optimizer_and_its_groups(tmp_path):
    _, watch = fit(tmp_path / "a", "method=linbreg", "trainer.max_epochs=1", "optimizer.weight_decay=0.001")
    regularized = [g for g in watch.optimizer.param_groups if g["regularizer"] is not None]
    assert type(watch.optimizer).__name__ == "LinBreg"
    assert {p for g in regularized for p in g["params"]} == set(watch.sparsity.net.params.values())
    assert all(p.dim() > 1 for g in regularized for p in g["params"])
    others = [p for g in watch.optimizer.param_groups if g["regularizer"] is None for p in g["params"]]
    assert others
    assert all(p.dim() == 1 and "dual" in watch.optimizer.state[p] for p in others)


def test_without_lambda_a_dense_start_is_sgd_to_the_last_bit(tmp_path):
    plain = ["optimizer.momentum=0", "optimizer.weight_decay=0"]
    sgd, _ = fit(tmp_path / "sgd", "method=dense", *plain, "optimizer.nesterov=false")
    dense_start = ["optimizer.lam=0", "method.init_density=1", "method.bias_init=null"]
    for name, options in {"linbreg": [], "ml_linbreg": ["optimizer.momentum=0"], "prox_sgd": []}.items():
        state, _ = fit(tmp_path / name, f"method={name}", *dense_start, *options)
        assert digest(state.weights) == digest(sgd.weights), name


def test_sparsity_is_told_from_step_zero_and_cost_follows_it(tmp_path):
    state, watch = fit(tmp_path / "a", "method=ml_linbreg", "optimizer.coarse_steps=3", "sparsity=0.9")
    assert watch.sparsities[0] == pytest.approx(0.9, abs=2e-3)
    assert watch.phases[:8] == ["coarse", "coarse", "coarse", "fine"] * 2
    assert 0.05 < state.facts["train_flops"] / state.facts["train_flops_dense"] < 0.35
    for name, mask in state.masks.items():
        assert torch.equal(mask, state.weights[name] != 0)


@pytest.mark.parametrize("method", ["ml_linbreg", "ml_adabreg"])
@pytest.mark.parametrize("control", ["constant", "multiplicative"])
def test_resumes_in_the_middle_of_a_coarse_phase(tmp_path, method, control):
    rate = ["optimizer.lr=0.01"] if method == "ml_adabreg" else []
    chosen = [
        f"method={method}",
        "optimizer.coarse_steps=6",
        f"method.control={control}",
        "method.control_every=1",
        *rate,
    ]
    whole, watch = fit(tmp_path / "whole", *chosen, save_steps=5)
    stop = PER_EPOCH + 5
    assert watch.phases[14] == watch.phases[15] == "coarse", "the checkpoint of step 15 lies inside a coarse phase"
    with pytest.raises(Stopped):
        fit(tmp_path / "parts", *chosen, save_steps=5, watch=Watch(stop))
    again, rest = fit(tmp_path / "parts", *chosen, save_steps=5)
    assert rest.phases == watch.phases[15:]
    assert digest(again.weights) == digest(whole.weights)
    assert digest(again.masks) == digest(whole.masks)
    assert again.facts["train_flops"] == whole.facts["train_flops"]
    assert again.facts["explored"] == whole.facts["explored"]


def test_phases_count_optimizer_steps_not_micro_batches(tmp_path):
    chosen = ["method=ml_linbreg", "optimizer.coarse_steps=2"]
    state, watch = fit(tmp_path / "a", *chosen, accumulate_grad_batches=2, max_epochs=2)
    assert state.facts["steps"] == PER_EPOCH
    assert watch.phases[1::2] == ["coarse", "coarse", "fine"] * 4


def test_the_top_level_sparsity_is_met_when_asked_for(tmp_path):
    for name in ("linbreg", "ml_linbreg"):
        chosen = [f"method={name}", "method.control=quantile", "sparsity=0.8", "method.control_every=4"]
        state, watch = fit(tmp_path / name, *chosen)
        active = sum(int(state.weights[n].count_nonzero()) for n in state.masks)
        assert active == round(0.2 * sum(mask.numel() for mask in state.masks.values()))
        assert watch.sparsities[-1] == pytest.approx(0.8, abs=1e-3)


def test_no_budget_unless_asked():
    assert compose_config(["method=linbreg"])["method"]["density"] is None
    asked = compose_config(["method=ml_linbreg", "method.control=quantile", "sparsity=0.95"])["method"]
    assert asked["density"] == 0.05
    assert asked["coarse_steps"] == 99


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["optimizer.lam=-0.1"], "lam -0.1 must be a number, 0 or more"),
        (["optimizer.delta=0"], "delta 0 must be a number, above 0"),
        (["optimizer.coarse_steps=-1"], "coarse_steps -1 must be a whole number"),
        (["optimizer.regularizer=rows", "prunable.include=['*.bias']"], "'rows' needs tensors of 2 or more dimensions"),
        (["optimizer.regularizer=filters"], "'filters' needs tensors of 3 or more dimensions, but 'fc.weight'"),
        (["optimizer.regularizer=l2"], "regularizer 'l2' is unknown"),
        (["method.init_density=0"], "never leaves zero"),
        (["method.control=often"], "control=often"),
        (["optimizer=linbreg"], "cannot train with LinBreg"),
        (["optimizer=sgd"], "cannot train with SGD"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, overrides, words):
    with pytest.raises(ValueError, match=r".") as error:
        fit(tmp_path / "a", "method=ml_linbreg", *overrides)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:no weight is left")  # said before the optimizer refuses
def test_a_network_that_starts_at_all_zeros_is_refused(tmp_path):
    quieten()
    run = build_run(compose_config([*SETTINGS, "method=linbreg", "method.init_density=null"]), tmp_path)
    build = run.setup.network

    def zeros():
        net = build()
        for parameter in run.setup.prunable.select(net).values():
            torch.nn.init.zeros_(parameter)
        return net

    run = run.replace(network=zeros)
    with pytest.raises(ValueError, match=r"all .* regularised tensors are zero at the first step"):
        run.fit("single", alone=True)
    run.close_loggers()


def presets():
    folders = ("linbreg_2022", "ml_linbreg_2026")
    return sorted(
        f"{folder}/{p.stem}" for folder in folders for p in (conf_dir() / "experiment" / folder).glob("*.yaml")
    )


@pytest.mark.parametrize("preset", presets())
@pytest.mark.parametrize("method", [None, "dense", "rigl", "linbreg", "prox_sgd"])
def test_presets_compose_beside_each_other(preset, method):
    config = compose_config([f"experiment={preset}", *([f"method={method}"] if method else [])])
    check_config(config)
    kind = config["optimizer"]["_target_"].rsplit(".", 1)[1]
    wanted = {None: config["choices"]["optimizer"], "dense": "SGD", "rigl": "SGD", "linbreg": "LinBreg"}
    if method in ("dense", "rigl", "linbreg"):
        assert kind == wanted[method]
    if method == "rigl":
        assert config["distribution"]["_target_"].endswith("erk")
    assert config["name"].startswith(preset.split("/")[0])


def test_every_reconstruction_says_so():
    for preset in presets():
        text = (conf_dir() / "experiment" / f"{preset}.yaml").read_text()
        assert "reconstruct" in text or "defaults" in text
        assert yaml.safe_load(text)
