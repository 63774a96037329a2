"""Link prediction on bipartite networks against a slow count of paths, and growth that follows it."""

import math

import pytest
import torch
from noise import drive, layers, random_layers

from sparsebench.functional.random import generator
from sparsebench.functional.schedule import constant
from sparsebench.methods import CHT, Clock
from sparsebench.methods.cht import link_prediction, link_prediction_by_paths


def slow(links):
    """Walk all paths output u - input a - output b - input v and add up each intermediate node once."""
    outputs, inputs = links.shape
    on = links.tolist()
    scores = torch.zeros(outputs, inputs, dtype=torch.float64)
    for u in range(outputs):
        for v in (v for v in range(inputs) if not on[u][v]):
            mine = [a for a in range(inputs) if on[u][a]]
            yours = [b for b in range(outputs) if on[b][v]]
            for a in mine:
                inside = sum(on[b][a] for b in yours)
                outside = sum(on[b][a] for b in range(outputs)) - inside - 1
                scores[u, v] += (1 + inside) / (1 + outside) if inside else 0
            for b in yours:
                inside = sum(on[b][a] for a in mine)
                outside = sum(on[b][a] for a in range(inputs)) - inside - 1
                scores[u, v] += (1 + inside) / (1 + outside) if inside else 0
    return scores


def test_against_the_slow_count():
    for seed in range(5):
        links = torch.rand(7, 9, generator=generator(seed)) < 0.3
        scores, wanted = link_prediction(links), slow(links)
        torch.testing.assert_close(scores[~links], wanted[~links])
        assert scores[~links].unique().numel() > 3


def slow_paths(links):
    """Walk all paths output u - input a - output b - input v and add up each path once."""
    outputs, inputs = links.shape
    on = links.tolist()
    scores = torch.zeros(outputs, inputs, dtype=torch.float64)
    for u in range(outputs):
        for v in (v for v in range(inputs) if not on[u][v]):
            yours = [b for b in range(outputs) if on[b][v]]
            reach = [a for a in range(inputs) if on[u][a]]
            mine = [a for a in reach if any(on[b][a] for b in yours)]  # the local community: nodes on some path
            theirs = [b for b in yours if any(on[b][a] for a in reach)]
            for a in mine:
                outside_a = sum(on[b][a] for b in range(outputs) if b != u and b not in theirs)
                for b in (b for b in theirs if on[b][a]):
                    outside_b = sum(on[b][i] for i in range(inputs) if i != v and i not in mine)
                    scores[u, v] += 1 / math.sqrt((1 + outside_a) * (1 + outside_b))
    return scores


@pytest.mark.parametrize("shape", [(7, 9), (9, 7)])
def test_the_paths_against_the_slow_count(shape):
    for seed in range(5):
        links = torch.rand(shape, generator=generator(seed)) < 0.4
        scores, wanted = link_prediction_by_paths(links), slow_paths(links)
        torch.testing.assert_close(scores[~links], wanted[~links])
        assert scores[~links].unique().numel() > 3


def test_a_layer_stops_when_what_it_removes_grows_at_once_again():
    """The weakest side of a complete square is removed; it is the only link that any path predicts, so it returns."""
    net = layers(w=[[0.1, 2.0, 0, 0], [3.0, 4.0, 0, 0], [0, 0, 5.0, 0], [0, 0, 0, 6.0]])
    net.memory["stopped"] = {"w": torch.tensor(False)}
    options = {"density": 6 / 16, "drop_fraction": 0.2, "drop_schedule": constant}
    before = net.masks["w"].clone()
    CHT(**options, early_stop=None).rewire(net, Clock(1, 10), None)
    assert torch.equal(net.masks["w"], before)
    assert not net.memory["stopped"]["w"]
    method = CHT(**options)
    method.rewire(net, Clock(1, 10), None)
    assert net.memory["stopped"]["w"]
    net.params["w"].data[3, 3] = 0.01
    method.rewire(net, Clock(2, 10), None)
    assert torch.equal(net.masks["w"], before), "nothing is removed any more"


def test_the_rule_is_that_of_the_paper_unless_another_is_named():
    links = torch.rand(12, 15, generator=generator(3)) < 0.3
    by_nodes, by_paths = link_prediction(links), link_prediction_by_paths(links)
    assert not torch.equal(by_nodes[~links].argsort(), by_paths[~links].argsort())
    assert CHT().rule == "ch3_l3p"
    with pytest.raises(ValueError, match="rule='ch3' must be one of ch3_l3p, ch2_l3n"):
        CHT(rule="ch3")
    with pytest.raises(ValueError, match="early_stop=0"):
        CHT(early_stop=0.0)


def test_a_square_is_closed():
    """Three sides of a square: both nodes between have one inner link and no outer one; the fourth scores 2 + 2."""
    links = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 1]]).bool()
    scores = link_prediction(links)
    assert float(scores[1, 1]) == 4
    assert float(scores[0, 2]) == float(scores[2, 0]) == 0


@pytest.mark.parametrize("rule", ["ch3_l3p", "ch2_l3n"])
def test_growth_takes_what_is_predicted_and_keeps_the_count(rule):
    net, seen = random_layers(), set()
    method = CHT(density=0.3, every=1, until=1.0, rule=rule, early_stop=None)
    for _ in drive(method, net, 50):
        assert net.counts == method.budget(net)
        seen.add(net.digest())
    assert len(seen) > 25
