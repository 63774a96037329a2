"""The identity of a run: hashes of canonical configurations never move.

After a change that is meant to move them, regenerate and review the diff:
``SPARSEBENCH_REGENERATE=1 pytest tests/app/test_identity.py``
"""

import copy
import json
import os
import re

import pytest
import yaml
from support import REPOSITORY

from sparsebench.app.config.compose import compose_config
from sparsebench.runs.fingerprints import tree
from sparsebench.runs.identity import (
    CORRECTED,
    _of_earlier_versions,
    essence,
    finished_before,
    identity,
    label,
    run_folder,
)

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
     "trainer.channels_last=true", "on_collapse=error", "trainer.save_seconds=1", "dataset.workers=3",
     "dataset.download=true"],
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
    assert name.startswith("rigl-timm-resnet18-digits-sparsity0.9-")
    assert name.endswith(f"seed3--{identity(config)}")


@pytest.mark.parametrize(
    "typed",
    ["optimizer.lr=0.05", "optimizer=adam", "method.until=0.5", "trainer.max_epochs=3", "pattern=channels",
     "+dataset.classes=3", "experiment=linbreg_2022/fashion_cnn", "'distribution.dense=[\"a b\"]'", "every=1e-2"],
)  # fmt: skip
def test_folder_names_need_no_quotes(typed):
    assert re.fullmatch(r"[\w.-]+", run_folder(compose_config([typed.strip("'")])).name)


def test_folder_names_show_what_differs():
    one, two = (run_folder(compose_config([f"optimizer.lr={lr}", "schedule=step"])).name for lr in (0.05, 0.1))
    assert "-lr0.05-" in one
    assert "-lr0.1-" in two
    assert "-step-" in one
    assert "seed0--" in one


def test_two_spellings_of_a_run_find_each_other(tmp_path):
    plain, spelled = (compose_config([f"output_root={tmp_path}", *more]) for more in ([], ["optimizer.lr=0.1"]))
    assert identity(plain) == identity(spelled)
    assert run_folder(plain) != run_folder(spelled)
    run_folder(plain).mkdir(parents=True)
    assert run_folder(spelled) == run_folder(plain)


def test_the_hash_holds_no_module_of_ours():
    config = compose_config(["method=gmp", "distribution=uniform", "recipe=single"])
    assert "sparsebench." not in json.dumps(essence(config))
    moved = copy.deepcopy(config)
    moved["method"]["_target_"] = "sparsebench.another.room.GMP"
    assert identity(moved) == identity(config)
    moved["method"]["_target_"] = "another.room.GMP"
    assert identity(moved) != identity(config)


def test_a_renamed_class_keeps_its_first_name_in_the_hash():
    config = compose_config(["recipe=swamp"])
    old = copy.deepcopy(config)
    assert config["recipe"]["look"]["_target_"] == "sparsebench.recipes.CycleChecks"
    old["recipe"]["look"]["_target_"] = "sparsebench.recipes.Look"
    assert identity(old) == identity(config)
    old["recipe"]["look"]["_target_"] = "elsewhere.CycleChecks"
    assert identity(old) != identity(config)


def test_the_number_of_processes_stays_outside_wherever_it_is_written():
    config = compose_config(["recipe=swamp", "recipe.workers=3"])
    assert config["workers"] == 3
    assert "workers" not in config["recipe"]
    old = {**config, "recipe": {**config["recipe"], "workers": 3}}  # as earlier versions froze it
    del old["workers"]
    assert identity(old) == identity(config) == identity(compose_config(["recipe=swamp"]))


def test_every_key_is_known_to_the_golden_list():
    """A key that came later must be neutral by default, or it renames every finished run: list it in ``NEUTRAL``."""
    golden = REPOSITORY / "tests" / "golden" / "identity_keys.json"
    keys = sorted(hashed_keys(essence(compose_config([]))))
    if os.environ.get("SPARSEBENCH_REGENERATE"):
        golden.write_text(json.dumps(keys, indent=1) + "\n")
    assert keys == json.loads(golden.read_text())


def test_a_corrected_rule_is_another_run(monkeypatch):
    """The settings say the same, the result does not: a number from before the correction must not be returned."""
    config = compose_config(["method=srigl"])
    today = identity(config)
    monkeypatch.setitem(CORRECTED, "SRigL", 2)
    assert identity(config) != today
    monkeypatch.delitem(CORRECTED, "SRigL")
    assert identity(config) != today


def hashed_keys(config, prefix=""):
    for key, value in config.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from hashed_keys(value, f"{prefix}{key}.")


def images(root, size=10, names=("a", "b")):
    for split in ("train", "val"):
        for name in names:
            (root / split / name).mkdir(parents=True, exist_ok=True)
            (root / split / name / "0.png").write_bytes(b"x" * size)
    return root


def folder_of(root):
    return identity(compose_config(["dataset=imagefolder", f"data_root={root}"]))


def test_other_images_are_another_run_and_the_same_images_elsewhere_are_not(tmp_path):
    one, two = images(tmp_path / "one"), images(tmp_path / "two")
    assert folder_of(one) == folder_of(two)
    tree.cache_clear()
    images(two, size=11)
    assert folder_of(one) != folder_of(two)
    three = images(tmp_path / "three", names=("a", "c"))
    assert len({folder_of(one), folder_of(two), folder_of(three)}) == 3


def test_an_edited_method_of_ones_own_is_another_run(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "edited_method.py").write_text("import edited_helper\nclass Mine: ...\n")
    (tmp_path / "edited_helper.py").write_text("SCALE = 1\n")

    def now():
        return identity(compose_config(["method._target_=edited_method.Mine"]))

    first = now()
    assert now() == first
    (tmp_path / "edited_helper.py").write_text("SCALE = 2\n")
    second = now()
    assert second != first
    (tmp_path / "edited_method.py").write_text("import edited_helper\nclass Mine: changed = True\n")
    assert now() not in (first, second)


def test_an_edited_table_of_densities_is_another_run(tmp_path):
    """The file keeps its name: without its contents in the identity, the old number would be returned."""
    table = tmp_path / "table.csv"

    def now(*overrides):
        return identity(compose_config([*overrides]))

    table.write_text("layer,density\n*,0.1\n")
    named = ["distribution=table", f"distribution.path={table}"]
    first, dense = now(*named), now("method=dense", *named)
    assert now(*named) == first
    table.write_text("layer,density\n*,0.2\n")
    assert now(*named) != first
    assert now("method=dense", *named) == dense == now("method=dense"), "dense training does not read it"


def test_edited_weights_and_descriptions_of_timm_are_another_run(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"1")
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "w.pt"
    overlay = f"+model.pretrained_cfg_overlay={{file: {weights}}}"
    for given in (f"+model.checkpoint_path={weights}", overlay, f"model.name='local-dir:{tmp_path}'"):
        tree.cache_clear()
        (tmp_path / "w.pt").write_bytes(b"1")
        first = identity(compose_config(["model=timm", given]))
        (tmp_path / "w.pt").write_bytes(b"2")
        tree.cache_clear()
        assert identity(compose_config(["model=timm", given])) != first, given


def test_installed_packages_have_no_digest():
    assert compose_config(["optimizer=sgd"])["fingerprints"] == {}


def test_finished_runs_of_an_earlier_version_are_found(tmp_path):
    config = compose_config([f"output_root={tmp_path}"])
    old = copy.deepcopy({key: value for key, value in config.items() if key not in ("typed", "fingerprints")})
    old["method"]["_target_"] = "sparsebench.methods.dynamic.RigL"
    folder = tmp_path / "runs" / "rigl,digits_cnn,digits,sparsity=0.9,seed=0--e29c1840"
    folder.mkdir(parents=True)
    assert finished_before(config) is None
    _of_earlier_versions.cache_clear()
    (folder / "config.yaml").write_text(yaml.safe_dump(old))
    (folder / "DONE").write_text("")
    assert finished_before(config) == folder
    assert finished_before(compose_config([f"output_root={tmp_path}", "seed=1"])) is None
