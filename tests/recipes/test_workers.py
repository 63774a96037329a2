"""Recipes from the command line: several processes, and plans that cannot be carried out."""

import copy
import json

import pytest
from support import command

from sparsebench.app.config.build import build_recipe
from sparsebench.app.config.compose import compose_config, lift_workers
from sparsebench.app.main import main
from sparsebench.app.process.helpers import number_of
from sparsebench.recipes import CycleChecks

QUICK = [
    "train", "recipe=swamp", "recipe.particles=2", "recipe.share=0.7", "dataset.limit=128", "trainer.max_epochs=2",
    "progress=none", "monitor=light", "trainer.check_val_every_n_epoch=100", "model=mlp", "recipe.look.barrier=0",
]  # fmt: skip


@pytest.mark.slow
def test_two_processes_reach_the_result_of_one(tmp_path):
    answers = {}
    for workers in (1, 2):
        answer = command(*QUICK, f"recipe.workers={workers}", f"run_dir=run{workers}", cwd=tmp_path)
        assert (answer.returncode, answer.stderr) == (0, "")
        answers[workers] = answer.stdout
    assert "2 processes: " in answers[2]
    assert "times as fast as one process" in answers[2]
    assert "processes" not in answers[1]
    one, two = (json.loads((tmp_path / f"run{n}" / "result.json").read_text()) for n in (1, 2))
    for key in ("weights_digest", "mask_digest", "test_accuracy", "train_flops", "config_hash", "sparsity", "method"):
        assert one[key] == two[key], key
    assert one["method"] == "swamp"
    assert one["sparsity_target"] == 0.9
    assert one["train_flops_ratio"] == pytest.approx(
        sum(c["train_flops"] for c in one["cycles"]) / one["train_flops_dense"]
    )
    assert [cycle["cycle"] for cycle in one["cycles"]] == [0, 1, 2]
    again = command(*QUICK, "run_dir=run1", cwd=tmp_path)
    assert "is finished" in again.stdout


def test_configurations_of_earlier_versions_are_read():
    config = compose_config(["recipe=swamp", "recipe.workers=2", "recipe.look.barrier=3"])
    old = copy.deepcopy(config)
    old["recipe"]["workers"] = old.pop("workers")
    old["recipe"]["look"]["_target_"] = "sparsebench.recipes.Look"
    read = lift_workers(old)
    assert number_of(read) == number_of(config) == 2
    assert lift_workers(read) == read
    assert build_recipe(read).keywords["look"] == build_recipe(config).keywords["look"] == CycleChecks(barrier=3)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["recipe=imp", "recipe.cycles=2"], "sparsity 0.9 is not reached by 2 cycles of 0.2"),
        (["recipe=imp", "recipe.rewind_to=100000"], "and a cycle ends at step"),
        (["recipe=swamp", "recipe.particles=0"], "recipe.particles=0 is impossible"),
        (["recipe=swamp", "recipe.workers=0"], "recipe.workers=0 is impossible"),
        (["recipe=imp", "method=rigl"], "and so does method RigL"),
        (["method=given"], "method=given trains with masks from outside"),
    ],
)
def test_bad_plans_are_one_line(tmp_path, monkeypatch, capsys, overrides, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["train", *overrides, "progress=none"])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert says in said
    assert len(said.splitlines()) == 1
    assert not list(tmp_path.rglob("*.pt"))
