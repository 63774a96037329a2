"""Link prediction on bipartite networks against a slow count of paths, and growth that follows it."""

import torch
from noise import drive, random_layers

from sparsebench.functional.random import generator
from sparsebench.methods import CHT
from sparsebench.methods.cht import link_prediction


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


def test_a_square_is_closed():
    """Three sides of a square: both nodes between have one inner link and no outer one; the fourth scores 2 + 2."""
    links = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 1]]).bool()
    scores = link_prediction(links)
    assert float(scores[1, 1]) == 4
    assert float(scores[0, 2]) == float(scores[2, 0]) == 0


def test_growth_takes_what_is_predicted_and_keeps_the_count():
    net, seen = random_layers(), set()
    method = CHT(density=0.3, every=1, until=1.0)
    for _ in drive(method, net, 50):
        assert net.counts == method.budget(net)
        seen.add(net.digest())
    assert len(seen) > 25
