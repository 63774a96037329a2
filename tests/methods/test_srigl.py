"""SRigL: constant fan-in, layer-wise drop, growth within neurons, ablation."""

import pytest
import torch
from noise import drive, layers, random_layers

from sparsebench.functional.distribution import uniform
from sparsebench.functional.schedule import constant
from sparsebench.methods import Clock, SRigL
from sparsebench.patterns import NofM

OPTIONS = {"density": 0.5, "distribution": uniform, "drop_fraction": 0.5, "drop_schedule": constant}


def update(weights, slopes, **options):
    net = layers(w=weights, last=[[1.0, 0.0], [0.0, 1.0]])
    net.memory["alive"] = {"w": torch.ones(len(weights)).bool(), "last": torch.ones(2).bool()}
    net.memory["gradient"] = {"w": torch.tensor(slopes), "last": torch.zeros(2, 2)}
    SRigL(**OPTIONS, **options).rewire(net, Clock(1, 10), None)
    return net


WEIGHTS = [[9.0, 8, 0, 0], [7, 1, 0, 0], [2, 3, 0, 0]]


def test_the_drop_is_over_the_layer_and_the_growth_within_neurons():
    """1, 2 and 3 are dropped; the second neuron grows one, the third two, by gradient."""
    net = update(WEIGHTS, [[0.0, 0, 9, 9], [0, 0, 1, 2], [0, 1, 3, 2]], gamma=0.0)
    assert net.masks["w"].int().tolist() == [[1, 1, 0, 0], [1, 0, 0, 1], [0, 0, 1, 1]]
    assert net.params["w"].tolist() == [[9, 8, 0, 0], [7, 0, 0, 0], [0, 0, 0, 0]]


def test_a_neuron_without_salient_weights_is_ablated():
    """Largest 3 gradients among what is off lie in the first two neurons: the third has no salient weight. Fan-in 3."""
    net = update(WEIGHTS, [[0.0, 0, 9, 8], [0, 5, 7, 6], [0, 1, 3, 2]], gamma=0.3)
    assert net.memory["alive"]["w"].tolist() == [True, True, False]
    assert net.masks["w"].int().tolist() == [[1, 1, 1, 0], [1, 0, 1, 1], [0, 0, 0, 0]]
    assert net.counts["w"] == 6


def test_gradients_alone_save_a_neuron_and_gamma_decides():
    """Two salient gradients in the third neuron: enough for gamma = 1 with fan-in 2."""
    slopes = [[0.0, 0, 9, 0], [0, 0, 0, 0], [0, 8, 8, 0]]
    assert update(WEIGHTS, slopes, gamma=1.0).memory["alive"]["w"].tolist() == [True, False, True]
    assert update(WEIGHTS, slopes, gamma=0.5).memory["alive"]["w"].tolist() == [True, True, True]


def test_an_ablated_neuron_may_return_and_others_give_up_their_weakest():
    net = layers(w=[[9.0, 8, 7, 0], [6, 5, 4, 0], [0, 0, 0, 0]], last=[[1.0, 0.0], [0.0, 1.0]])
    net.memory["alive"] = {"w": torch.tensor([True, True, False]), "last": torch.ones(2).bool()}
    net.memory["gradient"] = {
        "w": torch.tensor([[0.0, 0, 0, 0], [0, 0, 0, 0], [1, 3, 2, 0]]), "last": torch.zeros(2, 2),
    }  # fmt: skip
    SRigL(**{**OPTIONS, "drop_fraction": 0.34}).rewire(net, Clock(1, 10), None)  # drops 4 and 5
    assert net.memory["alive"]["w"].all()
    assert net.masks["w"].int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0]]


def test_the_bar_does_not_follow_the_fan_in_that_ablation_raises():
    """Two of four neurons are ablated, so the fan-in is 4, not 2. Gamma 1 asks for 2 salient weights, not for 4."""
    net = layers(w=[[4.0, 3, 2, 1], [8, 7, 6, 5], [0, 0, 0, 0], [0, 0, 0, 0]], last=[[1.0, 0.0], [0.0, 1.0]])
    net.memory["alive"] = {"w": torch.tensor([True, True, False, False]), "last": torch.ones(2).bool()}
    slopes = [[0.0, 0, 0, 0], [0, 0, 0, 0], [5, 6, 0, 0], [0, 0, 0, 4]]
    net.memory["gradient"] = {"w": torch.tensor(slopes), "last": torch.zeros(2, 2)}
    SRigL(**{**OPTIONS, "drop_fraction": 0.25}, gamma=1.0).rewire(net, Clock(1, 10), None)  # drops 1 and 2
    assert net.memory["alive"]["w"].tolist() == [True, True, True, False], "the first has 2 salient weights, and stays"
    assert net.counts["w"] == 6


def test_what_the_ablated_lose_counts_among_the_drops():
    """The second neuron is ablated with its 1 and 2. Two are to be dropped: no survivor of the first is."""
    net = layers(w=[[9.0, 8, 7, 0], [1, 2, 0, 0], [3, 6, 5, 0]], last=[[1.0, 0.0], [0.0, 1.0]])
    net.memory["alive"] = {"w": torch.ones(3).bool(), "last": torch.ones(2).bool()}
    slopes = [[0.0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 2]]
    net.memory["gradient"] = {"w": torch.tensor(slopes), "last": torch.zeros(2, 2)}
    method = SRigL(**{**OPTIONS, "density": 8 / 12, "drop_fraction": 0.25}, gamma=0.9)
    kept = method.drop(net, Clock(1, 10), net.memory["gradient"])
    assert kept["w"].int().tolist() == [[1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 0]]


@pytest.mark.parametrize(("gamma", "least"), [(0.3, 230), (0.6, 150), (0.95, 60)])
def test_ablation_does_not_run_away(gamma, least):
    """As measured beside the published code on a layer of 256 neurons: 256, about 200 and 78 stay there."""
    net = random_layers({"w": (256, 256), "head": (10, 256)})
    for _ in drive(SRigL(density=0.1, every=1, gamma=gamma), net, 25):
        pass
    assert int(net.memory["alive"]["w"].sum()) > least


def test_the_step_is_taken_as_in_its_code():
    assert not SRigL().replaces_step


def test_classes_are_not_ablated_unless_asked():
    net = random_layers()
    for _ in drive(SRigL(density=0.2, every=1, until=1.0, gamma=1.0), net, 20):
        assert net.memory["alive"]["head"].all()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.9])
def test_two_hundred_updates_keep_the_fan_in(gamma):
    method = SRigL(density=0.25, every=1, until=1.0, gamma=gamma, drop_fraction_end=0.2)
    net, ablated = random_layers(), 0
    for _ in drive(method, net, 200):
        for name, mask in net.masks.items():
            neurons = mask.reshape(len(mask), -1).sum(dim=1)
            active = int((neurons > 0).sum())
            assert neurons[neurons > 0].unique().numel() == 1
            assert method.budget(net)[name] - active < net.counts[name] <= method.budget(net)[name]
            ablated = max(ablated, len(mask) - active)
    assert (ablated > 0) == (gamma > 0)


def test_impossible_settings():
    with pytest.raises(ValueError, match="constant fan-in, not NofM"):
        SRigL(pattern=NofM(2, 4))
    with pytest.raises(ValueError, match=r"share of the fan-in in \[0, 1\]"):
        SRigL(gamma=2.0)
