"""GraNet: the cubic curve, global pruning, regeneration, the end."""

import pytest
import torch
from noise import drive, layers, ones, random_layers

from sparsebench.cost.passes import SPARSE, SPARSE_DENSE_WEIGHT
from sparsebench.functional.distribution import erk, uniform
from sparsebench.functional.schedule import constant, cubic
from sparsebench.methods import Clock, GraNet

SIZE = 288 + 192 + 96


def test_the_curve_of_the_paper():
    assert 1 - cubic(0.5, 0.05, 0.5) == pytest.approx(0.89375)
    assert 1 - cubic(1.0, 0.1, 0.5) == pytest.approx(0.7875)


@pytest.mark.parametrize("first", [1.0, 0.5])
def test_density_follows_the_curve_and_stays(first):
    net = random_layers()
    method = GraNet(density=0.1, density_start=first, every=10, prune_until=0.5)
    for clock in drive(method, net, 105):
        last = clock.step // 10 * 10
        progress = 1.0 if clock.step >= 52 else last / 52
        exact = cubic(first, 0.1, progress) * SIZE
        on_the_way = progress < 1  # rounded down as in its code, and to the budget at the end
        assert sum(net.counts.values()) == (int(exact + 1e-6) if on_the_way else round(exact)), clock.step
        assert method.passes(net, clock) == (SPARSE_DENSE_WEIGHT if clock.step in {9, 19, 29, 39, 49, 51, 59, 69, 79,
                                                                                   89, 99} else SPARSE)  # fmt: skip
    assert net.change > 0, "rewiring goes on after pruning"


def test_the_sparse_start_is_distributed_by_erk():
    net = random_layers()
    method = GraNet(density=0.1, density_start=0.5, every=10)
    next(iter(drive(method, net, 100)))
    expected = method.pattern.budget(net.shapes, erk(net.shapes, 0.5))
    assert net.counts == expected


def test_an_update_by_hand():
    """The budget of 4 goes to .9 .8 .7 .6 of both layers; a then exchanges one of its 3, b none of its one."""
    net = layers(a=[0.9, 0.8, 0.7, 0.1, 0.2], b=[0.6, 0.3, 0.5, 0.4, 0.35])
    net.memory["gradient"] = {"a": torch.tensor([0.0, 0, 0, 2, 3]), "b": torch.tensor([0.0, 1, 2, 3, 4])}
    method = GraNet(density=0.4, drop_fraction=0.4, drop_schedule=constant, drop_count="floor")
    method.rewire(net, Clock(50, 100), None)
    assert ones(net.masks["a"]) == [0, 1, 4]
    assert ones(net.masks["b"]) == [0]
    assert net.params["a"].tolist() == pytest.approx([0.9, 0.8, 0, 0, 0]), "what regenerates starts at zero"


def test_pruning_by_layer():
    net = random_layers()
    method = GraNet(density=0.2, distribution=uniform, every=5, density_start=0.5)
    for _ in drive(method, net, 60):
        pass
    assert net.counts == {"conv": 58, "fc": 38, "head": 19}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"density": 0.6, "density_start": 0.5}, "never denser"),
        ({"prune_from": 0.5, "prune_until": 0.5}, "prune_from < prune_until"),
    ],
)
def test_impossible_settings(options, says):
    with pytest.raises(ValueError, match=says):
        GraNet(**options)
