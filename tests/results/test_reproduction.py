"""Published cells that can be run: complete, composing to what they state, and judged by Welch's interval."""

import math
import tempfile
from pathlib import Path

import pytest
import yaml

from sparsebench.app.config.build import build
from sparsebench.app.config.compose import compose_config
from sparsebench.app.config.tree import options
from sparsebench.results.reproduction import judge, load_cells, tier

CELLS = load_cells()
PRESETS = {cell.recipe.preset: cell for cell in CELLS}


def test_there_are_enough_of_them():
    assert len(CELLS) >= 70
    assert len({cell.id for cell in CELLS}) == len(CELLS)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.id)
def test_a_cell_composes_to_its_sparsity(cell):
    config = compose_config(cell.arguments)
    if cell.published.method in ("snfs", "snip", "set", "static"):
        assert config["sparsity"] == pytest.approx(cell.published.sparsity, abs=6e-4)
    assert config["choices"]["method"] == cell.published.method
    assert config["choices"]["dataset"] == cell.published.dataset
    build(config["method"])  # a key that the method lacks is refused only here
    build(config["dataset"])
    build(config["optimizer"])


@pytest.mark.parametrize("cell", PRESETS.values(), ids=list(PRESETS))
def test_a_preset_composes_to_what_its_recipe_states(cell):
    recipe = cell.recipe
    assert recipe.preset in options("experiment")
    config = compose_config([f"experiment={recipe.preset}"])
    optimizer, trainer = config["optimizer"], config["trainer"]
    assert config["dataset"]["batch_size"] == recipe.batch
    assert optimizer["_target_"] == recipe.optimizer or recipe.optimizer is None
    assert optimizer["lr"] == pytest.approx(recipe.lr)
    assert recipe.momentum is None or optimizer["momentum"] == recipe.momentum
    assert recipe.nesterov is None or optimizer["nesterov"] == recipe.nesterov
    assert optimizer["weight_decay"] == pytest.approx(recipe.weight_decay)
    assert trainer["decay_norm_and_bias"] or recipe.decays != "all"
    assert config["choices"]["schedule"] == recipe.schedule
    assert trainer["max_epochs"] == recipe.epochs
    assert config["dataset"]["split"] == recipe.split
    assert config["dataset"]["augment"] is False


def cell_of(value, *, error, kind, runs, margin=0.2):
    entry = {**ENTRY, "value": value, "error": error, "error_kind": kind, "seeds": runs}
    return load(entry, {**RECIPE, "margin": margin, "n": runs})[0]


ENTRY = {
    "id": "x", "paper": "rigl", "arxiv": None, "table": "Table 1", "method": "rigl", "model": "lenet300",
    "dataset": "mnist", "sparsity": 0.9, "metric": "top1", "value": 98.0, "std": None, "seeds": None, "epochs": 1,
    "train_flops_ratio": None, "inference_flops_ratio": None, "evidence": "read", "protocol": "split=test",
}  # fmt: skip
RECIPE = {
    "preset": "rigl_2020/mnist_lenet300", "batch": 100, "optimizer": None, "lr": 0.1, "momentum": None,
    "nesterov": None, "weight_decay": 0.0, "decays": "all", "schedule": "step", "epochs": 1, "update": "none",
    "split": "random", "checkpoint": "last", "measure": "test_accuracy", "n": None, "margin": 0.2, "deviations": [],
}  # fmt: skip


def load(entry, recipe):
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "registry.yaml"
        path.write_text(yaml.safe_dump({"recipes": {"r": recipe}, "entries": [{**entry, "recipe": recipe}]}))
        return load_cells(path)


@pytest.mark.parametrize(
    ("entry", "recipe", "message"),
    [
        ({"error": 0.1}, {}, "entry x: error and error_kind belong together"),
        ({"error": 0.1, "error_kind": "sem"}, {}, "entry x: error_kind 'sem' is unknown, allowed are std, se, ci95"),
        ({}, {"batch": ...}, "recipe r: its recipe lacks batch"),
        ({}, {"speed": 1}, "recipe r: its recipe has no field speed"),
        ({}, {"margin": 0}, "recipe r: measure must be one of test_accuracy, val_accuracy, and margin above 0"),
        ({"value": None}, {}, "entry x: a cell that can be run needs a value"),
        ({"protocol": ...}, {}, "entry x: it lacks protocol"),
        (
            {"measures": {"neurons": 3}},
            {},
            "entry x: measure 'neurons' is neither a key of a result nor one of live_u",
        ),
    ],
)
def test_a_wrong_entry_is_refused_by_its_name(entry, recipe, message):
    wrong = {key: value for key, value in {**RECIPE, **recipe}.items() if value is not ...}
    with pytest.raises(ValueError, match=message):
        load({key: value for key, value in {**ENTRY, **entry}.items() if value is not ...}, wrong)


def test_welchs_interval_by_hand():
    cell = cell_of(98.0, error=0.1, kind="std", runs=5)
    verdict = judge(cell, [98.1, 98.2, 98.3, 98.2, 98.2])  # sd 0.0707, se 0.0316; published se 0.0447
    assert verdict.difference == pytest.approx(0.2)
    ours, theirs = 0.005 / 5, 0.01 / 5
    freedom = (ours + theirs) ** 2 / (ours**2 / 4 + theirs**2 / 4)
    assert freedom == pytest.approx(7.2)
    half = 2.3510 * math.sqrt(ours + theirs)  # t of 7.2 degrees of freedom
    assert verdict.interval == pytest.approx((0.2 - half, 0.2 + half), abs=2e-4)
    assert verdict.word == "differs"


@pytest.mark.parametrize(
    ("accuracies", "word"),
    [
        ([], "not run"),
        ([98.0], "undecided"),
        ([98.01, 98.0, 97.99], "reproduced"),
        ([98.5, 98.51, 98.49], "differs"),
        ([97.0, 99.0, 98.2], "undecided"),
    ],
)
def test_verdicts(accuracies, word):
    assert judge(cell_of(98.0, error=0.02, kind="se", runs=None), accuracies).word == word


@pytest.mark.parametrize(
    ("evidence", "accuracies", "expected"),
    [
        ("read", [], "claimed"),
        ("second_hand", [], "second hand"),
        ("read", [98.01, 98.0, 97.99], "reproduced here (n = 3, 1234, Xeon)"),
        ("second_hand", [98.5, 98.51, 98.49], "second hand; differs here (n = 3, 1234, Xeon)"),
        ("read", [98.0], "claimed; undecided here (n = 1, 1234, Xeon)"),
    ],
)
def test_tiers_of_verification(evidence, accuracies, expected):
    verdict = judge(cell_of(98.0, error=0.02, kind="se", runs=None), accuracies)
    assert tier(evidence, verdict, ["1234"], ["Xeon"]) == expected
    assert verdict.se is None if verdict.n < 2 else verdict.se == pytest.approx(verdict.sd / math.sqrt(verdict.n))
