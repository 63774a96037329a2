"""A finished run read back in Python: the network predicts what was measured, masks and numbers are the run's own."""

import subprocess
import sys

import pytest
import torch
from support import environment_of

import sparsebench
from sparsebench.sparse import digest


@pytest.fixture
def run(cli, outputs, tiny):
    answer = cli("train", *tiny, "method=rigl", "seed=3")
    assert answer.code == 0, answer.err
    (done,) = outputs.rglob("DONE")
    return done.parent


def test_three_lines_give_back_a_run(run):
    found = sparsebench.load(run)
    accuracy = [(found.network(images).argmax(1) == labels) for images, labels in found.data.test_dataloader()]
    assert float(torch.cat(accuracy).double().mean()) == pytest.approx(found.result["test_accuracy"], abs=1e-6)
    assert digest(found.masks) == found.result["mask_digest"]
    weights = dict(found.network.named_parameters())
    assert all(not weights[name][~mask].any() for name, mask in found.masks.items())
    assert not found.network.training
    assert found.config["seed"] == found.result["seed"] == 3
    assert [row["epoch"] for row in found.metrics if row["val_accuracy"] is not None] == [0, 1]


def test_ensembles_predict_by_all_their_members(cli, outputs, tiny):
    assert cli("train", *tiny, "recipe=imp_ensemble", "recipe.share=0.5", "recipe.solutions=2").code == 0
    (done,) = outputs.rglob("DONE")
    found = sparsebench.load(done.parent)
    batches = [(found.network(images).argmax(1) == labels) for images, labels in found.data.test_dataloader()]
    assert found.result["networks"] == 2
    assert float(torch.cat(batches).double().mean()) == pytest.approx(found.result["test_accuracy"], abs=1e-6)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda run: (run / "DONE").unlink(), "holds no finished run (DONE is missing)"),
        (lambda run: (run / "final.pt").write_bytes(b"PK"), "final.pt is damaged"),
        (lambda run: (run / "masks.pt").unlink(), "masks.pt is missing"),
    ],
)
def test_what_is_no_finished_run_is_refused(run, harm, words):
    harm(run)
    with pytest.raises(ValueError) as refused:
        sparsebench.load(run)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_exported_without_zeros(cli, run):
    answer = cli("export", str(run), "--sparse")
    assert answer.code == 0, answer.err
    assert "stored zeros" in answer.out
    found, file = sparsebench.load(run), run / "small" / "sparse.safetensors"
    images = next(iter(found.data.test_dataloader()))[0]
    stored = sparsebench.load_network(file)
    zeros = sum(int((~mask).sum()) for mask in found.masks.values())
    sizes = [sum(p.numel() for p in net.parameters()) for net in (found.network, stored)]
    assert 0 < sizes[0] - sizes[1] <= zeros  # layers above half density stay dense
    for sparse in (True, False):
        got = sparsebench.load_network(file, sparse=sparse)(images)
        torch.testing.assert_close(got, found.network(images), rtol=1e-4, atol=1e-5)
    whole = found.network.state_dict()
    assert all(value.equal(whole[name]) for name, value in stored.state_dict().items())


def test_exported_as_it_is(cli, run):
    from safetensors.torch import load_file

    assert cli("export", str(run), "--plain").code == 0
    state = sparsebench.load(run).network.state_dict()
    assert all(value.equal(state[name]) for name, value in load_file(run / "small" / "plain.safetensors").items())
    assert "not allowed with" in cli("export", str(run), "--plain", "--sparse").err


def test_no_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        sparsebench.load(tmp_path / "nothing")


def test_the_package_is_light_until_it_is_used():
    code = """
import sys
import sparsebench
assert "load" in dir(sparsebench)
assert not {"torch", "hydra", "lightning", "numpy"} & set(sys.modules), sorted(sys.modules)
import sparsebench.results
assert "frame" in dir(sparsebench.results)
sparsebench.results.read_results
assert not {"torch", "hydra", "lightning", "numpy"} & set(sys.modules), sorted(sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment_of())
    assert found.returncode == 0, found.stderr
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        _ = sparsebench.laod
