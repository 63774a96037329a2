"""evaluate: a finished run on other images; numbers land beside its result, wrong data are refused in one line."""

import json

import pytest
import torch

import sparsebench
from sparsebench.analysis.quality import brier, class_accuracies


def test_brier_and_accuracies_by_hand():
    logits = torch.tensor([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]])
    labels = torch.tensor([0, 0, 0])
    assert brier(logits, labels) == pytest.approx((0.5 + 0.0 + 2.0) / 3)
    assert class_accuracies(logits, labels) == [pytest.approx(2 / 3), None]


@pytest.fixture
def run(cli, outputs, tiny):
    assert cli("train", *tiny, "method=rigl").code == 0
    (done,) = outputs.rglob("DONE")
    return done.parent


def test_the_same_data_give_the_same_numbers(cli, run):
    before = (run / "result.json").read_bytes()
    (found,) = json.loads(cli("evaluate", str(run), "--json").out)
    result = json.loads(before)
    assert found["accuracy"] == pytest.approx(result["test_accuracy"], abs=1e-6)
    assert found["nll"] == pytest.approx(result["test_loss"], abs=1e-5)
    assert found["images"] == sum(len(labels) for _, labels in sparsebench.load(run).data.test_dataloader())
    assert len(found["class_accuracy"]) == 10
    assert (run / "result.json").read_bytes() == before


def test_validation_is_the_split_that_the_run_held_out(cli, run):
    answer = cli("evaluate", str(run), "--split", "validation", "--json")
    (found,) = json.loads(answer.out)
    result = json.loads((run / "result.json").read_text())
    assert found["accuracy"] == pytest.approx(result["val_accuracy"], abs=1e-6)
    (train,) = json.loads(cli("evaluate", str(run), "--split", "train", "--json").out)
    assert train["images"] == 128


def test_evaluations_are_kept_one_for_each_kind_of_data(cli, run):
    for arguments in ([], [], ["--split", "train"], ["dataset.test_limit=50"]):
        assert cli("evaluate", str(run), *arguments).code == 0
    kept = json.loads((run / "evaluations.json").read_text())
    assert [(entry["split"], entry["images"]) for entry in kept][1:] == [("train", 128), ("test", 50)]
    assert len(kept) == 3


def test_another_data_set_of_the_same_kind(cli, run):
    answer = cli("evaluate", str(run), "dataset=synthetic", "dataset.shape=[1,8,8]", "dataset.classes=10")
    assert (answer.code, answer.err) == (0, "")
    assert "images of synthetic" in answer.out
    assert "brier" in answer.out


def test_which_classes_pay(cli, run, outputs, tiny):
    assert cli("train", *tiny, "method=dense").code == 0
    (dense,) = (path.parent for path in outputs.rglob("DONE") if path.parent != run)
    answer = cli("evaluate", str(run), "--against", str(dense))
    assert (answer.code, answer.err) == (0, "")
    assert "classes that lose most: " in answer.out
    assert (dense / "evaluations.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dataset=synthetic"], "the network of"),
        (["method=set"], "does not apply to a finished run"),
        (["dataset=digit"], "unknown dataset 'digit'"),
        (["--split", "tests"], "invalid choice"),
        (["dataset.limits=3"], "limits"),
        (["--split", "validation", "dataset.val_share=0.0"], "there are no validation images"),
    ],
)
def test_what_cannot_be_measured_is_one_line(cli, run, arguments, words):
    answer = cli("evaluate", str(run), *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert words in answer.err
    assert len(answer.err.strip().splitlines()) == 1


def test_a_folder_without_a_finished_run_is_refused(cli, tmp_path):
    answer = cli("evaluate", str(tmp_path))
    assert answer.code == 2
    assert "holds no finished run" in answer.err
