"""Whole fits whose passes are replayed: the same masks and weights as without, for every method that allows it.

On a processor an imitation records, with the traps of a real graph; on a GPU the real one does.
"""

from __future__ import annotations

import contextlib

import lightning as L
import pytest
import torch
from gpu.imitation import imitate
from gpu.support import DEVICES, configured, methods, run_of, start_of
from gpu.waits import Strict

from sparsebench.app.config.build import build_setup
from sparsebench.engine.callbacks.cuda_graphs import CudaGraphs
from sparsebench.engine.sparsity import Sparsity
from sparsebench.execution.recording import capture_on_gpu
from sparsebench.methods import Method
from sparsebench.sparse import digest

UPDATES = ["every=4", "trainer.max_epochs=1"]
OTHER_WEIGHTS = {"str", "top_kast", "vr_pge", "probmask", "sr_ste"}
"""Methods whose loss sees other weights than the parameters: a few of those that must never be replayed."""


class Count(L.Callback):
    """Note how many passes were replayed, before the network gets its own forward back."""

    def __init__(self, graphs):
        self.graphs, self.replays, self.recordings = graphs, 0, 0

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if self.graphs.replayed is not None:
            self.replays, self.recordings = self.graphs.replayed.replays, self.graphs.replayed.recordings


def graphs_for(device, wanted="auto"):
    capture = imitate if device == "cpu" else capture_on_gpu
    return CudaGraphs(wanted, capture=capture, device=device)


def fit(config, folder, *callbacks):
    run = run_of(config, folder, *callbacks)
    return run.fit("single", start_of(run))


def assert_same(found, expected, device):
    assert digest(found.masks) == digest(expected.masks)
    if device == "cpu":
        assert digest(found.weights) == digest(expected.weights)
        return
    for name, weight in expected.weights.items():
        torch.testing.assert_close(found.weights[name], weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", methods())
def test_fits_are_the_same_with_graphs(method, device, tmp_path):
    config = configured(method, device, *UPDATES)
    graphs = graphs_for(device)
    count = Count(graphs)
    found = fit(config, tmp_path / "graphs", graphs, count)
    expected = fit(config, tmp_path / "plain")
    assert_same(found, expected, device)
    kind = type(build_setup(config).method)
    as_they_are = kind.loss is Method.loss and kind.view is Method.view
    assert (count.recordings, count.replays) == ((1, found.facts["steps"]) if as_they_are else (0, 0))
    assert not (as_they_are and method in OTHER_WEIGHTS)


SETTINGS = {
    "bfloat16": ["trainer.precision=bf16-mixed", "trainer.channels_last=true", "trainer.deterministic=false"],
    "clipped": ["trainer.gradient_clip_val=0.5"],
    "dropout": ["model=digits_cnn", "dataset.augment=true", "schedule=cosine"],
    "adam": ["optimizer=adam"],
    "linbreg": ["method=linbreg", "optimizer=linbreg"],
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("settings", SETTINGS)
def test_settings_around_the_passes(settings, device, tmp_path):
    config = configured("rigl", device, *UPDATES, *SETTINGS[settings])
    graphs = graphs_for(device, wanted=True)
    count = Count(graphs)
    assert_same(fit(config, tmp_path / "graphs", graphs, count), fit(config, tmp_path / "plain"), device)
    assert count.replays > 10


class Stopped(Exception):
    """Stands for a kill."""


class Kill(L.Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == 20:
            raise Stopped


@pytest.mark.parametrize("device", DEVICES)
def test_a_replayed_fit_resumes(device, tmp_path):
    config = configured("rigl", device, *UPDATES, "trainer.save_steps=6")
    with pytest.raises(Stopped):
        fit(config, tmp_path / "resumed", graphs_for(device), Kill())
    found = fit(config, tmp_path / "resumed", graphs_for(device))
    assert_same(found, fit(config, tmp_path / "plain"), device)


class Scaler(L.Callback):
    """Spoil a gradient at two steps, as an overflow does."""

    def on_after_backward(self, trainer, module):
        if trainer.global_step in (5, 9):
            next(module.net.parameters()).grad.view(-1)[0] = float("inf")


@pytest.mark.parametrize("device", DEVICES)
def test_a_scaler_skips_replayed_steps(device, tmp_path):
    from lightning.pytorch.plugins.precision import MixedPrecision

    states = []
    for name, graphs in (("graphs", graphs_for(device, wanted=True)), ("plain", None)):
        precision = MixedPrecision("bf16-mixed" if device == "cpu" else "16-mixed", device)
        precision.scaler = torch.amp.GradScaler(device, init_scale=1024.0)
        callbacks = [Scaler()] if graphs is None else [graphs, Scaler()]
        run = run_of(configured("rigl", device, *UPDATES), tmp_path / name, *callbacks)
        build = run.setup.trainer
        run = run.replace(trainer=lambda p=precision, b=build, **s: b(**{**s, "precision": None, "plugins": [p]}))
        with contextlib.suppress(FloatingPointError):  # the guard sees the spoilt loss of a network that has moved
            states.append(run.fit("single"))
    assert_same(states[0], states[1], device)


@pytest.mark.parametrize("device", DEVICES)
def test_accumulated_steps_run_plainly(device, tmp_path):
    config = configured("rigl", device, *UPDATES, "trainer.accumulate_grad_batches=2")
    graphs = graphs_for(device)
    count = Count(graphs)
    assert_same(fit(config, tmp_path / "graphs", graphs, count), fit(config, tmp_path / "plain"), device)
    assert count.replays == 0
    with pytest.raises(ValueError, match=r"cuda_graphs=true is impossible, since gradients are accumulated"):
        fit(config, tmp_path / "strict", graphs_for(device, wanted=True))


def test_a_processor_is_said_in_one_line(tmp_path, capsys):
    config = configured("rigl", "cpu", *UPDATES, "trainer.max_epochs=1")
    expected = fit(config, tmp_path / "plain")
    for wanted, folder in (("auto", "auto"), (False, "off")):
        run = run_of({**config, "trainer": {**config["trainer"], "cuda_graphs": wanted}}, tmp_path / folder)
        assert digest(run.fit("single").weights) == digest(expected.weights)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="needs a GPU: choose auto or false on processors"):
            run_of({**config, "trainer": {**config["trainer"], "cuda_graphs": True}}, tmp_path / "on")


def test_refusals(tmp_path):
    config = configured("rigl", "cpu")
    for wanted, said in (("always", "unknown"), (3, "unknown"), (1, "unknown")):
        with pytest.raises(ValueError, match=said):
            build_setup({**config, "trainer": {**config["trainer"], "cuda_graphs": wanted}})
    with pytest.raises(ValueError, match="choose one of them"):
        build_setup({**config, "trainer": {**config["trainer"], "cuda_graphs": "auto", "compile": True}})
    old = {key: value for key, value in config["trainer"].items() if key != "cuda_graphs"}
    assert build_setup({**config, "trainer": old}).cuda_graphs is False


def failing(module, batch):
    raise RuntimeError("operation not permitted\nwhen stream is capturing")


def test_what_cannot_be_recorded_warns_once(tmp_path):
    config = configured("rigl", "cpu", *UPDATES)
    with pytest.warns(UserWarning, match="steps run without CUDA graphs: it cannot be recorded") as warned:
        found = fit(config, tmp_path / "auto", CudaGraphs("auto", capture=failing, device="cpu"))
    assert len([w for w in warned if "CUDA graphs" in str(w.message)]) == 1
    assert digest(found.weights) == digest(fit(config, tmp_path / "plain").weights)
    with pytest.raises(ValueError, match="cannot be replayed, it cannot be recorded"):
        fit(config, tmp_path / "strict", CudaGraphs(True, capture=failing, device="cpu"))


@pytest.mark.gpu
def test_a_replayed_step_waits_for_nothing(tmp_path):
    class Watch(L.Callback):
        def __init__(self):
            self.strict, self.seen = Strict("cuda"), 0

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            step = next(c for c in trainer.callbacks if isinstance(c, Sparsity)).step
            if 3 < step <= 7:
                self.strict.end()
                self.seen += 1
            if 3 <= step < 7:
                self.strict.begin()

    watch = Watch()
    config = configured("rigl", "cuda", "every=100", "trainer.max_epochs=1")
    try:
        fit(config, tmp_path, graphs_for("cuda", wanted=True), watch)
    finally:
        watch.strict.stop()
    assert watch.seen == 4
