"""Whole trainings on a device: data that live there, one rank with bucket views, a compiled network, fp16."""

from __future__ import annotations

import os
from functools import partial

import pytest
import torch
from gpu.support import DEVICES, configured, run_of
from lightning.pytorch.strategies import DDPStrategy

from sparsebench.data.resident import Resident, Shift
from sparsebench.sparse import digest

UPDATES = ["every=4", "trainer.max_epochs=1", "sparsity=0.5"]
BACKENDS = {"cpu": "gloo", "cuda": "nccl"}


@pytest.mark.parametrize("device", DEVICES)
def test_data_live_on_the_device(device):
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 3, 9, 7), dtype=torch.uint8, generator=random)
    facts = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3), "shift": Shift(padding=2)}
    here, there = (Resident(images.clone(), torch.arange(40), **facts) for _ in range(2))
    rows = [torch.arange(0, 20), torch.arange(20, 40)]
    for draw in ((3, 1), None):
        batches = zip(here.batches(rows, draw=draw), there.batches(rows, device=device, draw=draw), strict=True)
        for (expected, classes), (found, labels) in batches:
            assert found.device.type == labels.device.type == device
            assert torch.equal(labels.cpu(), classes)
            torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-6)
    kept = {tensor.device.type for _, tensor in there._moved.values()}
    assert kept == {device}, "the whole set lies where its batches are made"


def trained(device, folder, strategy=None):
    """Train RigL for two updates and more; return masks and weights."""
    run = run_of(configured("rigl", device, *UPDATES), folder)
    build = run.setup.trainer
    if strategy is not None:  # each trainer wants one of its own
        run = run.replace(trainer=lambda **settings: build(**settings, strategy=strategy()))
    state = run.fit("single")
    assert state.facts["steps"] > 8
    return state


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch cannot be distributed")
@pytest.mark.parametrize("device", DEVICES)
def test_one_rank_with_bucket_views_trains_alike(device, tmp_path):
    """Gradients that are views of a bucket must be masked, scaled and dropped in place, never rebound."""
    plain = trained(device, tmp_path / "plain")
    before = dict(os.environ)
    views = partial(DDPStrategy, gradient_as_bucket_view=True, process_group_backend=BACKENDS[device])
    try:
        ranked = trained(device, tmp_path / "ranked", strategy=views)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        for name in set(os.environ) - set(before):
            del os.environ[name]
    assert digest(ranked.masks) == digest(plain.masks)
    assert digest(ranked.weights) == digest(plain.weights)


@pytest.mark.parametrize("device", [pytest.param("cpu", marks=pytest.mark.slow), DEVICES[1]])
def test_a_compiled_network_trains_through_updates(device, tmp_path):
    run = run_of(configured("rigl", device, *UPDATES, "trainer.compile=true"), tmp_path)
    state = run.fit("single")
    sizes = {name: (int(mask.sum()), mask.numel()) for name, mask in state.masks.items()}
    assert sum(ones for ones, _ in sizes.values()) == round(0.5 * sum(size for _, size in sizes.values()))
    assert all(not state.weights[name][~mask].any() for name, mask in state.masks.items())


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
def test_low_precision_in_channels_last(precision, tmp_path):
    settings = [f"trainer.precision={precision}", "trainer.channels_last=true", "trainer.deterministic=false"]
    run = run_of(configured("rigl", "cuda", *UPDATES, *settings), tmp_path)
    state = run.fit("single")
    assert all(weight.isfinite().all() for weight in state.weights.values())
    assert all(not state.weights[name][~mask].any() for name, mask in state.masks.items())
