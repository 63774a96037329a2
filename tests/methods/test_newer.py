"""Trainable thresholds, GSE and CHTs: what their traces in tests/official cannot show."""

import pytest
import torch
from noise import random_layers
from torch import nn
from toy import Toy, run

from sparsebench.functional.distribution import uniform
from sparsebench.functional.estimate import long_tailed_step
from sparsebench.methods import GSE, CHTs, Clock, TrainableThresholds
from sparsebench.methods.chts import chains, race
from sparsebench.patterns import NofM
from sparsebench.sparse import SparseModel


def test_the_step_and_its_long_tailed_derivative():
    x = torch.tensor([-2.0, -1.0, -0.5, -0.1, 0.0, 0.2, 0.4, 0.7, 1.5], requires_grad=True)
    step = long_tailed_step(x)
    step.sum().backward()
    assert step.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1]
    torch.testing.assert_close(x.grad, torch.tensor([0, 0.4, 0.4, 1.6, 2, 1.2, 0.4, 0.4, 0]))


def test_a_layer_that_is_all_but_gone_starts_again():
    toy, method = Toy(), TrainableThresholds(density=0.5, penalty=0.0, reset_at=0.5, topk_at=None)
    for step in toy.train(method, 3, finish=False):
        if step == 1:
            first = next(iter(toy.net.learned.values()))
            first.data.fill_(10.0)
        if step == 2:
            assert not first.any()


def test_a_larger_penalty_leaves_fewer_weights():
    left = []
    for penalty in (0.0, 0.05):
        toy = run(Toy(), TrainableThresholds(density=0.5, penalty=penalty, topk_at=None), 30)
        left.append(sum(toy.net.counts.values()))
    assert left[1] < 0.9 * left[0]


def test_thresholds_need_every_gradient_until_masks_are_fixed():
    toy, method, seen = Toy(), TrainableThresholds(density=0.5, topk_at=0.5), []
    for step in toy.train(method, 8):
        seen.append(method.passes(toy.net, Clock(step, 8)).weight)
    assert seen == [("dense",)] * 3 + [("active",)] * 5


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GSE(density=0.5, pattern=NofM(2, 4)), "choose pattern=unstructured, or method=rigl"),
        (lambda: GSE(density=0.5, scope="layer"), "global, local"),
        (lambda: GSE(density=0.5, subset=0), "choose a number above 0"),
        (lambda: GSE(density=0.5, exclude_dropped=False), "do not change either"),
        (lambda: CHTs(density=0.5, removal="weights"), "magnitude, relative"),
        (lambda: CHTs(density=0.5, pattern=NofM(2, 4)), "choose chain_removal=false"),
        (lambda: TrainableThresholds(density=0.5, penalty=-1), "penalty >= 0"),
    ],
)
def test_what_is_refused_says_what_to_write(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("scope", ["global", "local"])
def test_gse_grows_candidates_only_and_keeps_its_budget(scope):
    toy = Toy(widths=(20, 20, 20))
    method = GSE(density=0.2, scope=scope, distribution=uniform, every=1, until=1.0, drop_fraction_end=0.2)
    net, before, layers = SparseModel(toy.net.params), {}, set()
    for step in toy.train(method, 20):
        if before and step < 20:
            net.masks, net._counts = before, {}
            allowed = {name: method.candidates(net, name, step) for name in before}
            assert all(not (toy.net.masks[n] & ~before[n] & ~allowed[n]).any() for n in before)
            assert any((toy.net.masks[n] & ~before[n]).any() for n in before)
        before = {n: mask.clone() for n, mask in toy.net.masks.items()}
        layers.add(tuple(toy.net.counts.values()))
        assert sum(toy.net.counts.values()) == sum(method.budget(toy.net).values())
    assert (len(layers) > 1) == (scope == "global")


def test_gse_pays_for_active_weights_and_candidates():
    toy = Toy(widths=(40, 40, 40))
    method = GSE(density=0.1, every=4, distribution=uniform)
    method.start(toy.net, toy.probe)
    assert method.passes(toy.net, Clock(1, 100)).weight == ("active",)
    (shares,) = method.passes(toy.net, Clock(3, 100)).weight
    assert all(0.17 < share <= 0.2 for share in shares.values())


def test_a_race_draws_in_proportion_without_replacement():
    weights = torch.tensor([1.0, 2.0, 5.0, 0.0])
    stream, first, pairs, n = torch.Generator().manual_seed(0), torch.zeros(4), 0, 4000
    for _ in range(n):
        order = race(weights.log(), stream).argsort(descending=True)
        first[order[0]] += 1
        pairs += set(order[:2].tolist()) == {1, 2}
        assert order[3] == 3
    torch.testing.assert_close(first / n, weights / 8, atol=0.025, rtol=0)
    assert pairs / n == pytest.approx(2 / 8 * 5 / 6 + 5 / 8 * 2 / 3, abs=0.025)


def test_chains_are_linear_layers_that_read_each_other_and_nothing_else():
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            hidden = torch.relu(self.a(x))
            return self.d(torch.tanh(self.c(hidden + self.b(hidden))))

    net = SparseModel.of(Fork())
    net.set_masks({name: torch.ones_like(p, dtype=torch.bool) for name, p in net.params.items()})
    assert chains(net) == [("c.weight", "d.weight")]


def test_links_of_idle_neurons_go():
    net = SparseModel.of(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
    first, second = torch.ones(3, 4, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)
    first[0], second[:, 1] = False, False
    net.set_masks({"0.weight": first, "2.weight": second})
    net.memory["stopped"] = {name: torch.tensor(False) for name in net.masks}
    kept = CHTs(density=0.5)._without_idle(net, dict(net.masks))
    assert kept["0.weight"].sum(dim=1).tolist() == [0, 0, 4]
    assert kept["2.weight"].sum(dim=0).tolist() == [0, 0, 2]


def test_relative_importance_is_of_row_and_column():
    net = random_layers()
    method = CHTs(density=0.5, removal="relative")
    for name, weight in net.params.items():
        w = weight.detach().abs().reshape(len(weight), -1)
        wanted = w / (w + 1e-5).sum(0) + w / (w + 1e-5).sum(1)[:, None]
        torch.testing.assert_close(method.drop_score(net, name, {}).reshape(w.shape).detach(), wanted)
