"""Submissions: the committed ones are sound, and each kind of fault is named."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest

from sparsebench.results.leaderboard import Entry, collect, ranks, records
from sparsebench.results.submission import faults, read, submission

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
SENT = sorted((RESULTS / "submissions").glob("*.json"))


@pytest.mark.parametrize("path", SENT, ids=lambda path: path.stem)
def test_committed_submissions_are_sound(path):
    assert len(read(path)["runs"]) >= 1


def test_there_is_an_example():
    assert SENT


@pytest.fixture
def sound():
    return copy.deepcopy(json.loads(SENT[0].read_text(encoding="utf-8")))


def first(document):
    return document["runs"][0]


CHANGES = {
    "who is missing": lambda d: d.pop("who"),
    "runs must be list, got dict": lambda d: d.update(runs={}),
    "unknown field 'speed'": lambda d: d.update(speed=1),
    "who is empty": lambda d: d.update(who=" "),
    "command must begin with 'sparsebench train'": lambda d: d.update(command="python main.py"),
    "runs is empty": lambda d: d.update(runs=[]),
    "run 0: a run holds config and result": lambda d: first(d).pop("config"),
    "run 0: result lacks mask_digest": lambda d: first(d)["result"].pop("mask_digest"),
    "run 0: result has keys of no version: speedup": lambda d: first(d)["result"].update(speedup=3),
    "run 0: config is not a frozen configuration": lambda d: first(d).update(config={"seed": 0}),
    "differs from the hash of the configuration": lambda d: first(d)["config"]["optimizer"].update(lr=0.123),
    "the configuration of another run": lambda d: first(d)["result"].update(method="snip"),
    "test_accuracy 1.7 is not a share": lambda d: first(d)["result"].update(test_accuracy=1.7),
    "test_accuracy nan is not a share": lambda d: first(d)["result"].update(test_accuracy=float("nan")),
    "train_flops_ratio 0 must be above 0": lambda d: first(d)["result"].update(train_flops_ratio=0),
    "'xyz' is not a digest": lambda d: first(d)["result"].update(weights_digest="xyz"),
    "is not 1 - ": lambda d: first(d)["result"].update(sparsity=0.5),
    "parameters cannot be": lambda d: first(d)["result"].update(active_weights=10**9),
    "is far below chance": lambda d: first(d)["result"].update(test_accuracy=0.01),
    "seeds repeat: 0, 0": lambda d: d.update(runs=[first(d), first(d)]),
}


@pytest.mark.parametrize("message", CHANGES)
def test_each_fault_is_named(message, sound):
    assert faults(sound) == []
    CHANGES[message](sound)
    assert any(message in fault for fault in faults(sound)), faults(sound)


def test_no_json_is_named(tmp_path):
    (tmp_path / "a.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.json: no JSON"):
        read(tmp_path / "a.json")
    with pytest.raises(ValueError, match="does not hold a finished run"):
        submission([tmp_path], who="a", command="sparsebench train")


def test_copied_weights_and_mixed_configurations_are_named(sound):
    second = sound["runs"][1]
    second["result"]["weights_digest"] = first(sound)["result"]["weights_digest"]
    assert faults(sound) == ["two seeds have the same weights: one run was copied"]


def test_the_script_says_what_it_found(tmp_path, sound):
    first(sound)["result"]["config_hash"] = "00000000"
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(sound), encoding="utf-8")
    for path, code in ((SENT[0], 0), (wrong, 1)):
        command = [sys.executable, str(ROOT / "scripts" / "check_submission.py"), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
    assert (
        "check_submission: wrong.json: run 0: config_hash 00000000 differs from the hash of the configuration"
        in done.stderr
    )


# -- the leaderboard --------------------------------------------------------------------------------------------------


def test_the_page_is_that_of_the_committed_results():
    command = [sys.executable, str(ROOT / "scripts" / "leaderboard.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def entry(method, values, sparsity=0.9):
    return Entry("mnist", "mlp", method, 1, dict(enumerate(values)), {"sparsity": sparsity}, "c", (), "s.json")


def test_ranks_have_ties():
    entries = [
        entry("rigl", (98.0, 98.2, 98.1)),
        entry("set", (98.1, 98.0, 98.2)),  # ties with the first
        entry("static", (90.0, 90.1, 90.2)),
        entry("snip", (99.0,)),  # a single run
        entry("dense", (99.0, 99.1, 99.2)),
        entry("set", (97.0, 97.1), sparsity=0.5),  # alone
    ]
    assert ranks(entries) == [1, 1, 3, None, None, None]


def test_intervals_are_those_of_student():
    (row,) = records([entry("rigl", (98.0, 98.2, 98.4))])
    assert row["accuracy"] == pytest.approx(98.2)
    assert row["half"] == pytest.approx(4.302653 * 0.2 / 3**0.5, abs=1e-3)
    assert records([entry("rigl", (98.0,))])[0]["half"] is None


def test_reproduced_cells_and_rows_of_runs_become_entries(tmp_path):
    cell = {
        "cell": "x", "paper": "snip", "method": "snip", "model": "lenet300", "dataset": "mnist", "sparsity": 0.9,
        "measure": "test_accuracy", "published": 98.0, "ours": [98.0, 98.1], "seeds": [0, 1], "n": 2,
        "verdict": "reproduced", "train_flops_ratio": 0.1, "sparsity_measured": 0.9,
        "command": "sparsebench reproduce x", "commit": "1", "hardware": "Xeon", "runs": ["a", "b"],
    }  # fmt: skip
    other = {**cell, "measure": "val_accuracy"}
    (tmp_path / "reproduced.json").write_text(json.dumps({"rows": [cell, other, {**cell, "n": 0}]}), encoding="utf-8")
    run = {"method": "set", "model": "lenet300", "dataset": "mnist", "seed": 0, "epochs": 2, "test_accuracy": 0.9,
           "sparsity": 0.9, "train_flops_ratio": 0.1, "overrides": "method=set"}  # fmt: skip
    measured = {"common_overrides": "model=lenet300", "rows": [run, {**run, "seed": 1, "test_accuracy": 0.91}]}
    (tmp_path / "short.json").write_text(json.dumps(measured), encoding="utf-8")
    (tmp_path / "other.json").write_text("[]", encoding="utf-8")
    found = collect(tmp_path)
    assert [(e.method, len(e.accuracies), e.source) for e in found] == [
        ("set", 2, "short.json"),
        ("snip", 2, "reproduced.json"),
    ]
    assert found[0].command == "sparsebench train model=lenet300 method=set"
    assert found[1].note == "reproduced: published 98.00 (snip)"
