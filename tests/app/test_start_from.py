"""start_from and masks_from: a fit begins with somebody's weights, and the masks are kept to the end."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune

import sparsebench
from sparsebench.app.config.build import build_setup
from sparsebench.app.config.compose import compose_config
from sparsebench.fits.checkpoint_file import fold_masks
from sparsebench.runs.identity import identity


@pytest.fixture
def network(tiny):
    return build_setup(compose_config(tiny)).network()


@pytest.fixture
def pruned(network):
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            prune.random_unstructured(layer, "weight", amount=0.7)
    return network


def final(outputs):
    (done,) = outputs.rglob("DONE")
    return sparsebench.load(done.parent)


def forms(pruned, folder):
    """Write one network as torch.nn.utils.prune, Lightning, SparseML, DDP, plain and safetensors leave it."""
    state = {name: value.clone() for name, value in pruned.state_dict().items()}
    plain, masks = fold_masks(state)
    beside = {**plain, **{f"{name}_mask": mask.float() for name, mask in masks.items()}}
    torch.save(state, folder / "prune.pt")
    torch.save({"state_dict": {f"net.{k}": v for k, v in state.items()}, "epoch": 3}, folder / "lightning.ckpt")
    torch.save({"state_dict": beside, "recipe": "x"}, folder / "sparseml.pth")
    torch.save({"model": {f"module.{k}": v for k, v in plain.items()}}, folder / "ddp.pt")
    torch.save(plain, folder / "plain.pt")
    save_file(plain, folder / "plain.safetensors")
    return plain, masks


def test_every_form_gives_the_same_weights(pruned, tmp_path, tiny):
    plain, _ = forms(pruned, tmp_path)
    for name in ("prune.pt", "lightning.ckpt", "sparseml.pth", "ddp.pt", "plain.pt", "plain.safetensors"):
        found = build_setup(compose_config([*tiny, f"start_from={tmp_path / name}"])).network().state_dict()
        assert all(torch.equal(found[key], value) for key, value in plain.items()), name


@pytest.mark.parametrize("masks_from", ["zeros", "prune.pt", "lightning.ckpt", "sparseml.pth"])
def test_masks_are_kept_exactly_while_fine_tuning(cli, outputs, pruned, tmp_path, tiny, masks_from):
    plain, masks = forms(pruned, tmp_path)
    place = masks_from if masks_from == "zeros" else tmp_path / masks_from
    answer = cli("train", *tiny, "method=given", f"start_from={tmp_path / 'plain.pt'}", f"masks_from={place}")
    assert (answer.code, answer.err) == (0, "")
    run = final(outputs)
    assert all(torch.equal(run.masks[name], mask) for name, mask in masks.items())
    weights = run.network.state_dict()
    assert all(not weights[name][~mask].any() for name, mask in masks.items())
    assert any(not torch.equal(weights[name], plain[name]) for name in masks), "it has trained"
    assert run.result["sparsity_target"] is None
    assert run.result["method"] == "given"
    assert run.result["sparsity"] == pytest.approx(0.7, abs=0.01)


def test_a_finished_run_is_a_start(cli, outputs, tiny, tmp_path):
    assert cli("train", *tiny, "method=rigl").code == 0
    first = final(outputs)
    answer = cli(
        "train", *tiny, "method=given", f"start_from={first.folder}", f"masks_from={first.folder}", "name=more"
    )  # fmt: skip
    assert (answer.code, answer.err) == (0, "")
    second = final(outputs / "more")
    assert second.result["mask_digest"] == first.result["mask_digest"]
    assert second.result["weights_digest"] != first.result["weights_digest"]


def test_a_dense_method_may_start_from_weights(cli, outputs, pruned, tmp_path, tiny):
    forms(pruned, tmp_path)
    answer = cli("train", *tiny, "method=gmp", f"start_from={tmp_path / 'plain.pt'}")
    assert (answer.code, answer.err) == (0, "")
    assert final(outputs).result["sparsity"] == pytest.approx(0.5, abs=0.01)


def test_the_identity_holds_the_contents_and_not_the_place(tmp_path, tiny):
    for name, value in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        (tmp_path / f"{name}.pt").write_bytes(str(value).encode())
    found = [identity(compose_config([*tiny, f"start_from={tmp_path / name}.pt"])) for name in "abc"]
    assert found[0] == found[1] != found[2]
    assert identity(compose_config(tiny)) not in found
    given = [*tiny, "method=given", "masks_from=zeros"]
    assert identity(compose_config(given)) == identity(compose_config([*given, "sparsity=0.8"]))
    assert identity(compose_config(given)) != identity(compose_config([*tiny, "method=given"]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("fc1.bias", None) or state.popitem(), "lacks"),
        (lambda state: state.update(head=torch.ones(2)), "has unknown head"),
        (lambda state: state.update({next(iter(state)): torch.ones(2, 2)}), "has shape (2, 2) in the file"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(cli, network, tmp_path, tiny, change, words):
    state = dict(network.state_dict())
    change(state)
    torch.save(state, tmp_path / "w.pt")
    answer = cli("train", *tiny, f"start_from={tmp_path / 'w.pt'}")
    assert answer.code == 2
    assert words in answer.err
    assert len(answer.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["start_from=nowhere.pt"], "start_from=nowhere.pt does not exist"),
        (["start_from=."], "holds no finished run"),
        (["masks_from=zeros"], "choose method=given recipe=single"),
        (["method=given", "masks_from=zeros"], "the weights contain no zeros"),
        (["method=given"], "set masks_from=zeros or a file"),
    ],
)
def test_what_makes_no_sense_is_refused(cli, tiny, arguments, words):
    answer = cli("train", *tiny, *arguments)
    assert answer.code == 2
    assert words in answer.err
    assert len(answer.err.strip().splitlines()) == 1


def test_a_file_of_anything_else_is_refused(cli, tmp_path, tiny):
    (tmp_path / "w.pt").write_text(json.dumps({"no": "weights"}))
    answer = cli("train", *tiny, f"start_from={tmp_path / 'w.pt'}")
    assert answer.code == 2
    assert "cannot be read as weights" in answer.err
