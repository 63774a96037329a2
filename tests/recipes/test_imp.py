"""Iterative magnitude pruning and its relatives: what is reset, and what a cycle trains."""

import lightning as L
import pytest
import torch
from tiny_run import states, tiny_run

from sparsebench.fits import evaluate, load
from sparsebench.functional.distribution import uniform
from sparsebench.methods import Given
from sparsebench.recipes import CycleChecks, imp, imp_ensemble, prune_finetune
from sparsebench.recipes.pruning import dense_masks, prune, rewind
from sparsebench.sparse import digest

BLIND = CycleChecks(barrier=0)


class Rates(L.Callback):
    """Note the learning rate of every step of every fit."""

    def __init__(self, found):
        self.found, self.label = found, ""

    def on_train_batch_start(self, trainer, module, batch, index):
        self.found.setdefault(self.label.removesuffix(": "), []).append(trainer.optimizers[0].param_groups[0]["lr"])


def rates_of(folder, **arguments):
    found = {}
    run = tiny_run(folder, density=0.5, progress=lambda: [Rates(found)])
    imp(run, cycles=1, hit_target="geometric", rewind_to=0.25, look=BLIND, **arguments)
    return found, states(folder)


def test_rewinding_weights_replays_the_whole_schedule_or_the_rest(tmp_path):
    whole, _ = rates_of(tmp_path / "whole")
    rest, found = rates_of(tmp_path / "rest", replay="rest")
    full = whole["cycle0"]
    assert len(full) == 12
    assert whole["cycle1"] == full
    assert whole["ticket"] == pytest.approx(full[:3])  # the beginning of the full schedule, not a short one
    assert rest["cycle1"] == pytest.approx(full[3:])
    assert found["cycle1"].facts["steps"] == 9
    held, _ = rates_of(tmp_path / "held", ticket_rate=0.07)
    assert held["ticket"] == pytest.approx([0.07] * 3)


def test_rewinding_the_learning_rate_keeps_the_weights(tmp_path):
    rates, found = rates_of(tmp_path, retrain="learning_rate")
    assert "ticket" not in rates
    assert len(rates["cycle0"]) == 12
    assert rates["cycle1"] == pytest.approx(rates["cycle0"][3:])
    run = tiny_run(tmp_path, density=0.5)
    start = prune(run, found["cycle0"], 0.5)
    again = tiny_run(tmp_path / "again", density=0.5).fit("cycle1", start, seed=imp_seed(run), span=(3, 12))
    assert digest(again.weights) == digest(found["cycle1"].weights)


def imp_seed(run):
    from sparsebench.functional.random import generator

    return generator(run.seed, "particle", 1, 0).initial_seed()


def test_fine_tuning_keeps_one_rate(tmp_path):
    rates, _ = rates_of(tmp_path, retrain="finetune", finetune_rate=0.003)
    assert rates["cycle1"] == pytest.approx([0.003] * 9)


def test_layerwise_pruning_keeps_the_share_of_every_layer(tmp_path):
    run = tiny_run(tmp_path, method=Given(density=0.25, distribution=uniform))
    state = prune(run, rewind(run.initial(), dense_masks(run)), 0.5)
    assert {n: int(m.sum()) for n, m in state.masks.items()} == {"conv.weight": 27, "fc.weight": 192}
    last = prune(run, state, 0.25)
    for name, mask in last.masks.items():
        weight = state.weights[name].abs()
        assert weight[mask].min() >= weight[state.masks[name] & ~mask].max()


def test_of_equal_magnitudes_the_first_stay(tmp_path):
    run = tiny_run(tmp_path)
    flat = {n: torch.ones_like(v) for n, v in run.initial().weights.items()}
    from sparsebench.fits import State

    state = prune(run, State(flat, dense_masks(run)), 100 / 438)
    assert int(state.masks["conv.weight"].sum()) == 54
    assert state.masks["fc.weight"].reshape(-1)[:46].all()
    assert not state.masks["fc.weight"].reshape(-1)[46:].any()


def test_rewinding_to_the_start_trains_no_ticket(tmp_path):
    run = tiny_run(tmp_path, density=0.5)
    imp(run, cycles=1, hit_target="geometric", rewind_to=0, look=BLIND)
    assert run.journal.fits["ticket"] == {}
    assert digest(states(tmp_path)["ticket"].weights) == digest(run.initial().weights)


def test_pruning_once_measures_every_phase(tmp_path):
    run = tiny_run(tmp_path, density=0.2)
    final = prune_finetune(run, finetune_from=0.5)
    cycles = final.facts["cycles"]
    assert [c["phase"] for c in cycles] == ["dense", "pruned", "finetuned"]
    assert [c["steps"] for c in cycles] == [12, 0, 6]
    assert [round(c["density"], 2) for c in cycles] == [1, 0.2, 0.2]
    kept = round(0.2 * 438) / 438
    assert final.facts["train_flops"] < final.facts["train_flops_dense"] * (1 + 0.5)
    assert cycles[-1]["density"] == pytest.approx(kept)


def test_an_ensemble_averages_the_predictions_of_independent_solutions(tmp_path):
    run = tiny_run(tmp_path, density=0.5)
    settings = {"cycles": 1, "hit_target": "geometric", "rewind_to": 0.25, "look": BLIND}
    final = imp_ensemble(run, solutions=2, **settings)
    alone = imp(tiny_run(tmp_path / "alone", density=0.5), **settings)
    assert digest(alone.weights) == digest(final.weights)  # the first is what recipe=imp trains
    (other,) = final.members
    assert digest(other) != digest(final.weights)
    module = load(run.setup, final.weights, other)
    images = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        each = [load(run.setup, weights)(images).softmax(1) for weights in (final.weights, other)]
        torch.testing.assert_close(module(images).exp(), (each[0] + each[1]) / 2)
    assert final.facts["steps"] == 2 * alone.facts["steps"]
    assert set(evaluate(run.setup, final)) >= {"test_accuracy", "test_loss"}


def test_masks_from_nowhere_are_refused(tmp_path):
    with pytest.raises(ValueError, match="method=given trains with masks from outside"):
        tiny_run(tmp_path).fit("single")
