"""compare: two runs side by side; whatever is missing is said in one line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import environment_of

sys.path.insert(0, str(Path(__file__).parents[1] / "results"))
from written_runs import write_run


@pytest.fixture
def two(outputs):
    a = write_run(outputs / "a", test_accuracy=0.5)
    b = write_run(outputs / "b", test_accuracy=0.75, seed=1, config={"optimizer": {"lr": 0.2}})
    torch.save({"w": torch.tensor([True, True, False, False])}, a / "masks.pt")
    torch.save({"w": torch.tensor([True, False, True, False])}, b / "masks.pt")
    return str(a), str(b)


def test_configuration_numbers_and_masks(cli, two):
    answer = cli("compare", *two)
    assert (answer.code, answer.err) == (0, "")
    lines = [line.split() for line in answer.out.splitlines()]
    assert ["optimizer.lr", "0.1", "0.2"] in lines
    assert ["seed", "0", "1"] in lines
    assert ["test", "accuracy", "0.5", "0.75", "+0.25"] in lines
    assert ["w", "0.5000", "0.5000", "0.3333", "0.3333"] in lines
    assert ["all", "layers", "0.3333"] in lines
    assert not any(line[:1] == ["model.name"] for line in lines), "what is equal is not shown"


def test_programs_get_json(cli, two):
    found = json.loads(cli("compare", "--json", *two).out)
    assert found["config"] == {"seed": [0, 1], "optimizer.lr": [0.1, 0.2]}
    assert found["numbers"]["test_accuracy"] == [0.5, 0.75]
    assert found["masks"][0]["jaccard"] == pytest.approx(1 / 3)
    assert found["overlap"] == pytest.approx(1 / 3)


def test_a_run_equals_itself(cli, two):
    out = cli("compare", two[0], two[0]).out
    assert "The configurations are equal." in out
    assert ["w", "0.5000", "0.5000", "1.0000", "0.3333"] in [line.split() for line in out.splitlines()]


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda b: (b / "masks.pt").unlink(), "b/masks.pt is missing"),
        (lambda b: (b / "masks.pt").write_bytes(b"PK"), "b/masks.pt is damaged"),
        (lambda b: (b / "config.yaml").write_text("a: [1"), "b: no readable config.yaml"),
    ],
)
def test_what_is_damaged_is_named_and_the_rest_is_shown(cli, two, harm, words):
    harm(Path(two[1]))
    answer = cli("compare", *two)
    assert answer.code == 0
    assert words in answer.out
    assert "+0.25" in answer.out


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda b: (b / "result.json").write_text("{"), "result.json: damaged"),
        (lambda b: (b / "DONE").unlink(), "(interrupted)"),
        (shutil.rmtree, "is not a folder"),
        (lambda b: (shutil.rmtree(b), b.mkdir()), "holds no finished run"),
    ],
)
def test_a_run_that_cannot_be_read_is_one_line(cli, two, harm, words):
    harm(Path(two[1]))
    answer = cli("compare", *two)
    assert (answer.code, answer.out) == (2, "")
    assert words in answer.err
    assert len(answer.err.strip().splitlines()) == 1


def test_one_run_or_a_whole_grid_is_refused(cli, two, outputs):
    assert cli("compare", two[0]).code == 2
    answer = cli("compare", str(outputs), two[0])
    assert answer.code == 2
    assert "holds 2 runs" in answer.err


def test_torch_waits_until_there_are_masks(two):
    for folder in two:
        (Path(folder) / "masks.pt").unlink()
    code = f"""
import sys
from sparsebench.app.main import main
main(["compare", {two[0]!r}, {two[1]!r}])
assert not {{"torch", "lightning", "numpy", "hydra"}} & set(sys.modules), "heavy import"
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment_of())
    assert found.returncode == 0, found.stderr
