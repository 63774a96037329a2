"""plan: equal to what a real run charges, right for published networks, quiet, and without a trace on disk."""

import json
from pathlib import Path

import pytest
from support import disk_of

from sparsebench.app.plan.dry_fit import Touched, Untouched, _between
from sparsebench.app.plan.rehearsal import Length

WITHIN_LAYERS = ["dense", "static", "set", "rigl", "gmp", "magnitude", "sr_ste", "mest_soft"]
SAME = (
    "train_flops",
    "train_flops_dense",
    "train_flops_ratio",
    "inference_flops",
    "steps",
    "epochs",
    "density_per_layer",
)


def planned(answer):
    assert answer.code == 0, answer.err
    return json.loads(answer.out)


@pytest.mark.parametrize("method", WITHIN_LAYERS)
def test_a_plan_equals_the_ledger_of_a_real_run(cli, tiny, outputs, method):
    arguments = [f"method={method}", *tiny, "trainer.accumulate_grad_batches=2"]
    (cell,) = planned(cli("plan", *arguments, "--json"))
    assert disk_of(Path.cwd()) == []
    assert cli("train", *arguments).code == 0
    (file,) = outputs.rglob("result.json")
    result = json.loads(file.read_text())
    assert cell["exact"]
    assert {key: cell[key] for key in SAME} == {key: result[key] for key in SAME}
    same = ("method", "model", "dataset", "recipe", "seed", "sparsity_target", "batch_size", "parameters", "sparsity")
    assert {key: cell[key] for key in same} == {key: result[key] for key in same}


def test_a_recipe_of_several_fits_is_planned_as_a_whole(cli, tiny, outputs):
    arguments = ["recipe=prune_finetune", "distribution=uniform", *tiny]
    (cell,) = planned(cli("plan", *arguments, "--json"))
    assert cli("train", *arguments).code == 0
    (file,) = outputs.rglob("result.json")
    result = json.loads(file.read_text())
    same = ("train_flops", "train_flops_dense", "steps", "epochs", "inference_flops")
    assert {key: cell[key] for key in same} == {key: result[key] for key in same}


@pytest.mark.parametrize(
    ("model", "sparsity", "ratio"),
    [("vgg19", 0.9, 0.2225), ("vgg19", 0.8, 0.4052), ("wrn22_2", 0.8, 0.3521)],
)
def test_inference_ratios_of_erk_are_those_derived_elsewhere(cli, model, sparsity, ratio):
    (cell,) = planned(
        cli("plan", f"model={model}", "dataset=cifar10", f"sparsity={sparsity}", "method=static", "--json")
    )
    assert round(cell["inference_flops_ratio"], 4) == ratio
    assert cell["training_images"] == 45_000
    assert sum(row["weights"] for row in cell["layers"]) == cell["prunable_weights"]
    assert sum(row["active_weights"] for row in cell["layers"]) == cell["active_weights"]
    assert sum(row["inference_flops"] for row in cell["layers"]) == cell["inference_flops"]
    assert cell["prunable_weights"] + cell["excluded_parameters"] == cell["parameters"]


def test_gradual_pruning_of_a_large_network_is_interpolated_and_says_so(cli, monkeypatch):
    from sparsebench.app.plan import dry_fit
    from sparsebench.methods import GMP

    arguments = ("plan", "method=gmp", "model=mlp", "trainer.max_epochs=40", "every=5", "--json")
    monkeypatch.setattr(GMP, "sizes_after", lambda *_: None)  # as of a method whose sizes are known from no budget
    (exact,) = planned(cli(*arguments))
    monkeypatch.setattr(dry_fit, "WORK", 0)
    monkeypatch.setattr(dry_fit, "FEW", 0)
    (sampled,) = planned(cli(*arguments))
    assert exact["exact"]
    assert not sampled["exact"]
    assert "interpolated" in sampled["notes"][0]
    assert sampled["train_flops_ratio"] == pytest.approx(exact["train_flops_ratio"], abs=1e-4)
    assert sampled["density_per_layer"] == exact["density_per_layer"]


@pytest.mark.parametrize("distribution", ["uniform", "erk"])
def test_gradual_pruning_is_planned_from_its_budget_alone(cli, monkeypatch, distribution):
    from sparsebench.functional import select
    from sparsebench.methods import GMP

    layers: list[int] = []
    keep_top = select.keep_top
    monkeypatch.setattr(select, "keep_top", lambda scores, k: layers.append(k) or keep_top(scores, k))
    arguments = ("plan", "method=gmp", f"distribution={distribution}", "model=mlp", "every=5", "--json")
    (quick,) = planned(cli(*arguments))
    assert len(layers) == len(quick["density_per_layer"])  # the last pruning, and no other
    monkeypatch.setattr(GMP, "sizes_after", lambda *_: None)
    (slow,) = planned(cli(*arguments))
    assert quick["exact"]
    assert quick == slow
    assert len(layers) > 10 * len(quick["density_per_layer"])


@pytest.mark.parametrize(
    ("method", "word"),
    [("snip", "estimate"), ("linbreg", "results from training"), ("dsr", "moves between layers")],
)
def test_what_cannot_be_known_before_training_is_said(cli, tiny, method, word):
    answer = cli("plan", f"method={method}", *tiny)
    assert answer.code == 0
    assert word in answer.out
    assert "about" in answer.out


def test_the_table_names_layers_totals_and_units(cli):
    answer = cli("plan", "model=lenet300", "dataset=digits", "prunable=hidden")
    assert answer.code == 0
    assert "\x1b" not in answer.out
    assert "(excluded)" in answer.out
    for words in (
        "FLOPs dense",
        "FLOPs sparse",
        "1 MAC = 2 FLOPs",
        "per sample",
        "forward and both gradients",
        "total",
    ):
        assert words in answer.out


def test_a_grid_has_one_row_per_cell_and_leaves_no_file(cli, tiny):
    answer = cli("plan", "-m", "method=dense,rigl", "seed=0,1", *tiny)
    assert answer.code == 0
    rows = [line for line in answer.out.splitlines() if line.startswith(("dense", "rigl"))]
    assert len(rows) == 4
    for words in ("sparsity", "epochs", "inference / dense", "training / dense", "training FLOPs", "seed"):
        assert words in answer.out.splitlines()[0]
    assert disk_of(Path.cwd()) == []


def test_json_stands_alone_on_standard_output(cli, tiny):
    answer = cli("plan", "density=0.2", *[t for t in tiny if not t.startswith("sparsity")], "--json")
    (cell,) = json.loads(answer.out)
    assert cell["sparsity_target"] == 0.8
    assert "is read as" in answer.err


def test_one_impossible_cell_does_not_hide_the_others(cli, tiny):
    answer = cli("plan", "-m", "method=static", "distribution.dense=[],[nowhere]", *tiny, "--json")
    assert answer.code == 1
    assert len(json.loads(answer.out)) == 1
    assert "cannot be planned" in answer.err


@pytest.mark.parametrize("arguments", [["method=riggl"], ["sparsity=1.5"], ["trainer.max_epoch=3"], ["nonsense=1"]])
def test_wrong_input_is_one_line(cli, arguments):
    answer = cli("plan", *arguments, "--json")
    assert answer.code == 2
    assert answer.out == ""
    assert len(answer.err.strip().splitlines()) == 1


def test_missing_images_are_counted_as_published_or_refused(cli):
    (cell,) = planned(cli("plan", "dataset=tiny_imagenet", "model=resnet18", "method=dense", "--json"))
    assert cell["training_images"] == 90_000
    assert "images are missing" in cell["notes"][0]
    refused = cli("plan", "dataset=imagefolder", "dataset.root=nowhere")
    assert refused.code == 2
    assert "nowhere" in refused.err


def test_length_counts_steps_and_samples_as_the_trainer_does():
    length = Length(images=1293, batch=64, accumulate=3)
    assert length.epoch == 7
    assert [length.samples(step) for step in range(8)] == [192] * 6 + [128, 192]
    assert length.steps(2, -1) == 14
    assert length.steps(2, 5) == 5
    assert Length(images=10, batch=64).samples(0) == 10
    assert Length(images=1293, batch=64, limit=0.5).epoch == 10
    assert Length(images=1293, batch=64, limit=4).epoch == 4
    assert length.epochs(14) == 2
    assert length.epochs(3) == pytest.approx(3 / 7)
    with pytest.raises(ValueError, match="no end"):
        length.steps(-1, -1)


def test_a_stand_in_may_be_passed_by_but_not_read():
    idle = Untouched()
    idle.mask_gradients_()
    with pytest.raises(Touched):
        _ = idle.params


def test_interpolation_is_exact_for_cubics_and_stays_between_known_values():
    cubic = {t: {"w": 0.1 + 0.9 * (1 - t / 10) ** 3} for t in (1, 3, 6, 8, 10)}
    known = [(0, {"w": 1.0}), *cubic.items()]
    for t in (2, 4, 5, 7, 9):
        assert _between(known, t)["w"] == pytest.approx(0.1 + 0.9 * (1 - t / 10) ** 3)
    assert _between(known, 0)["w"] == 1.0
    assert _between(known, 12) == cubic[10]
    jump = [(0, {"w": 1.0}), (2, {"w": 1.0}), (4, {"w": 0.1}), (6, {"w": 1.0}), (8, {"w": 0.1})]
    assert 0.1 <= _between(jump, 5)["w"] <= 1.0


def test_execution_times_each_layer_and_says_what_auto_takes(cli):
    cell = ("plan", "method=static", "model=mlp", "dataset=digits", "sparsity=0.8", "--execution")
    (found,) = planned(cli(*cell, "--json"))
    rows = found["execution"]
    assert [row["name"] for row in rows] == list(found["density_per_layer"])
    for row in rows:
        assert row["density"] == pytest.approx(found["density_per_layer"][row["name"]])
        assert row["chosen"] in row["seconds"] or (row["density"] > 0.5 and row["chosen"] == "masked")
    assert any("masked" in row["seconds"] and len(row["seconds"]) > 1 for row in rows)
    answer = cli(*cell)
    assert "timed layers together:" in answer.out
    assert "masked ms" in answer.out
    assert "execution" not in planned(cli(*cell[:-1], "--json"))[0]
