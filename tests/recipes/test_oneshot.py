"""Pruning a trained network at once: budgets, what the pruners see, and what compensation is worth."""

import pytest
import torch
from tiny_run import states, tiny_run
from torch import nn

from sparsebench.functional.distribution import uniform
from sparsebench.methods import Dense, Given
from sparsebench.patterns import Blocks, NofM
from sparsebench.recipes import CAP, OBERT, CycleChecks, Pruner, SparseGPT, Wanda, oneshot
from sparsebench.recipes.cycle import Evaluator
from sparsebench.recipes.pruners import Trained
from sparsebench.sparse import digest

BLIND = CycleChecks(barrier=0)
PRUNERS = {
    "magnitude": Pruner(),
    "wanda": Wanda(images=64, batch=16),
    "sparsegpt": SparseGPT(images=64, batch=16, step=20),
    "obert": OBERT(gradients=24, images=4, block=16),
    "cap": CAP(gradients=24, images=4, block=16, rounds=2),
}


def make(folder, density=0.3, pattern=None, **changes):
    options = {} if pattern is None else {"pattern": pattern}
    return tiny_run(folder, method=Given(density=density, distribution=uniform, **options), **changes)


@pytest.mark.parametrize("name", PRUNERS)
def test_pruning_meets_the_budget_and_repeats(tmp_path, name):
    final = oneshot(make(tmp_path / "a"), pruner=PRUNERS[name], train=True, look=BLIND)
    assert sum(int(m.sum()) for m in final.masks.values()) == round(0.3 * 438)
    for layer, mask in final.masks.items():
        assert not final.weights[layer][~mask].any()
        assert torch.isfinite(final.weights[layer]).all()
    again = oneshot(make(tmp_path / "b"), pruner=PRUNERS[name], train=True, look=BLIND)
    assert digest(again.weights) == digest(final.weights)
    resumed = oneshot(make(tmp_path / "a"), pruner=PRUNERS[name], train=True, look=BLIND)
    assert digest(resumed.weights) == digest(final.weights)
    assert [cycle["phase"] for cycle in final.facts["cycles"]] == ["dense", "pruned"]
    assert [cycle["steps"] for cycle in final.facts["cycles"]] == [12, 0]


def test_without_training_only_scoring_costs(tmp_path):
    run = make(tmp_path)
    final = oneshot(run, pruner=Wanda(images=64, batch=16), look=BLIND)
    macs = 8 * 8 * 54 + 384
    assert final.facts["start_flops"] == 2 * macs * 64 * 2  # once for each of the two layers
    assert final.facts["train_flops"] == final.facts["train_flops_ratio"] == final.facts["steps"] == 0
    spent = oneshot(make(tmp_path / "b"), pruner=OBERT(gradients=10, images=4), look=BLIND).facts["start_flops"]
    assert spent == 2 * macs * 40 * 3


def trained(run, pruner=None):
    state = run.fit("dense", method=Dense())
    evaluator = Evaluator(run.setup, BLIND)
    names = tuple(run.setup.blank.params)
    return state, Trained(evaluator, state.weights, names, run.method, run.method.budget(run.setup.blank))


def features(network, images):
    """Return the inputs of the linear layer."""
    hidden = nn.functional.max_pool2d(torch.relu(network.norm(network.conv(images))), 2)
    return hidden.flatten(1)


def test_wanda_measures_each_layer_behind_pruned_ones(tmp_path):
    state, given = trained(make(tmp_path))
    weights, masks = Wanda(images=64, batch=16).prune(given)
    network = given.evaluator.module({**state.weights, "conv.weight": weights["conv.weight"]}).net
    with torch.no_grad():
        x = torch.cat([features(network, images) for images, _ in given.batches(4, 16)])
    score = state.weights["fc.weight"].abs() * x.norm(dim=0)
    kept = given.of_layer("fc.weight")
    assert int(masks["fc.weight"].sum()) == kept
    for row, mask in zip(score, masks["fc.weight"], strict=True):
        assert int(mask.sum()) in (kept // 4, kept // 4 + 1)
        assert row[mask].min() >= row[~mask].max()
    other = Wanda(images=64, batch=16, sequential=False).prune(given)[1]
    assert torch.equal(other["conv.weight"], masks["conv.weight"])


def test_wanda_ranks_all_layers_for_a_budget_over_all(tmp_path):
    _, given = trained(tiny_run(tmp_path, density=0.3))
    _, masks = Wanda(images=64, batch=16).prune(given)
    assert sum(int(m.sum()) for m in masks.values()) == round(0.3 * 438)


def test_sparsegpt_changes_outputs_less_than_its_masks_alone(tmp_path):
    state, given = trained(make(tmp_path))
    weights, masks = SparseGPT(images=64, batch=16, sequential=False).prune(given)
    network = given.evaluator.module(state.weights).net
    with torch.no_grad():
        x = torch.cat([features(network, images) for images, _ in given.batches(4, 16)])
    dense = state.weights["fc.weight"]

    def change(weight):
        return float((((weight - dense) @ x.T) ** 2).sum())

    assert change(weights["fc.weight"]) < 0.9 * change(dense * masks["fc.weight"])


def test_second_order_compensation_lowers_the_quadratic_loss(tmp_path):
    state, given = trained(make(tmp_path))
    pruner = CAP(gradients=24, images=4, block=16)
    weights, masks = pruner.prune(given)
    ones = {name: torch.ones_like(m) for name, m in masks.items()}
    slopes = list(pruner.slopes(given, state.weights, ones))

    def rise(name, weight):
        """Second-order rise of the loss within the blocks of the matrix."""
        move = (weight - state.weights[name]).reshape(-1).split(16)
        found = [g[name].reshape(-1).split(16) for g in slopes]
        return sum(float((d @ g[k]) ** 2) for g in found for k, d in enumerate(move))

    for name, mask in masks.items():
        assert rise(name, weights[name]) < rise(name, state.weights[name] * mask)


@pytest.mark.parametrize(
    "pruner", [Wanda(images=32, batch=16), SparseGPT(images=32, batch=16), CAP(gradients=8, images=4)]
)
def test_two_of_four_inputs(tmp_path, pruner):
    run = make(tmp_path, density=0.5, pattern=NofM(2, 4), prunable=Linear())
    final = oneshot(run, pruner=pruner, look=BLIND)
    assert NofM(2, 4).holds(final.masks["fc.weight"])


class Linear:
    """Choose the linear layer alone."""

    def select(self, network):
        return {"fc.weight": network.fc.weight}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: oneshot(tiny_run(folder), pruner=SparseGPT()), "choose distribution=uniform, erk or er"),
        (lambda folder: oneshot(make(folder, 0.5, Blocks(2, 1)), pruner=SparseGPT()), "choose pattern=unstructured"),
        (lambda folder: oneshot(make(folder), pruner=Wanda()), "the training data have 96: use a smaller batch"),
        (lambda folder: oneshot(tiny_run(folder, method=Dense()), pruner=Wanda()), "leave method out"),
        (lambda folder: Wanda(images=100, batch=64), "a whole number of batches"),
        (lambda folder: SparseGPT(damp=0.0), "both must be above 0"),
        (lambda folder: CAP(rounds=0), "all must be above 0"),
    ],
)
def test_what_is_refused_says_what_to_write(tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        change(tmp_path)


def test_every_stage_is_on_disk(tmp_path):
    oneshot(make(tmp_path), pruner=Wanda(images=32, batch=16), look=BLIND)
    assert set(states(tmp_path)) == {"dense", "dense-measured", "pruned", "pruned-measured"}


def test_an_untrained_network_is_refused_by_the_command_line():
    from sparsebench.app.config.build import build_recipe
    from sparsebench.app.config.compose import compose_config

    with pytest.raises(ValueError, match=r"start_from names none: give start_from=RUN .* recipe.train=true"):
        build_recipe(compose_config(["recipe=wanda"]))
    assert build_recipe(compose_config(["recipe=wanda", "recipe.train=true"])).keywords["train"]
