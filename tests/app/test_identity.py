"""The identity of a run: hashes of canonical configurations never move.

After a change that is meant to move them, regenerate and review the diff:
``SPARSEBENCH_REGENERATE=1 pytest tests/app/test_identity.py``
"""

import copy
import json
import os

import pytest
from support import REPOSITORY

from sparsebench.app.compose import compose_config
from sparsebench.app.identity import identity, label, run_folder

GOLDEN = REPOSITORY / "tests" / "golden" / "identity.json"
CANONICAL = [
    "",
    "method=dense",
    "method=rigl model=resnet20 dataset=cifar10 sparsity=0.95",
    "method=set sparsity=0.98 seed=3",
    "method=dst_ee model=vgg19 dataset=cifar100 sparsity=0.9",
    "method=dst_ee method.c=0.01",
    "method=gmp distribution=uniform",
    "method=magnitude optimizer=adam schedule=step",
    "method=static prunable=hidden trainer.precision=bf16-mixed",
    "model=resnet50 dataset=imagenet trainer.max_epochs=100",
]


def hashes():
    return {line: identity(compose_config(line.split())) for line in CANONICAL}


def test_golden_hashes():
    if os.environ.get("SPARSEBENCH_REGENERATE"):
        GOLDEN.write_text(json.dumps(hashes(), indent=1) + "\n")
    assert hashes() == json.loads(GOLDEN.read_text())


def test_different_runs_have_different_hashes():
    assert len(set(hashes().values())) == len(CANONICAL)


@pytest.mark.parametrize(
    "override",
    ["name=x", "output_root=x", "data_root=x", "run_dir=x", "rerun=true", "progress=none", "logger=none",
     "monitor=light", "trainer.accelerator=cpu", "trainer.devices=4", "trainer.strategy=ddp", "trainer.compile=true",
     "trainer.save_seconds=1", "dataset.workers=3", "dataset.download=true"],
)  # fmt: skip
def test_what_cannot_change_the_result_stays_outside(override):
    assert identity(compose_config([override])) == identity(compose_config([]))


@pytest.mark.parametrize(
    "override",
    ["seed=1", "sparsity=0.8", "distribution=uniform", "every=7", "method.until=0.5", "model.width=16",
     "dataset.batch_size=32", "dataset.augment=false", "optimizer.lr=0.2", "schedule=step", "prunable=conv",
     "trainer.max_epochs=3", "trainer.precision=bf16-mixed", "trainer.accumulate_grad_batches=2",
     "trainer.label_smoothing=0.1", "trainer.decay_norm_and_bias=false"],
)  # fmt: skip
def test_what_can_change_the_result_counts(override):
    assert identity(compose_config([override])) != identity(compose_config([]))


def test_sparsity_counts_only_where_a_method_refers_to_it():
    dense = [compose_config(["method=dense", f"sparsity={s}"]) for s in (0.5, 0.9)]
    assert identity(dense[0]) == identity(dense[1])
    assert "sparsity" not in label(dense[0])


def test_identity_leaves_the_configuration_alone():
    config = compose_config([])
    before = copy.deepcopy(config)
    identity(config)
    assert config == before


def test_the_folder_says_what_it_holds():
    config = compose_config(["method=rigl", "model=timm", "model.name=timm:resnet18", "seed=3"])
    name = run_folder(config).name
    assert name.startswith("rigl,timm-")
    assert name.endswith(f"seed=3--{identity(config)}")
    assert "/" not in name
