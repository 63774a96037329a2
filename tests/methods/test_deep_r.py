"""DeepR: the walk, the deaths, the signs, exact counts."""

import contextlib
import math

import pytest
import torch
from noise import NO_PROBE, drive, layers, ones, random_layers

from sparsebench.functional.distribution import uniform
from sparsebench.methods import Clock, DeepR
from sparsebench.patterns import Blocks


def test_a_connection_dies_when_its_sign_changes():
    net = layers(w=[0.5, -0.4, 0.3, 0.2, 0, 0, 0, 0])
    net.memory["sign"] = {"w": torch.tensor([1, -1, 1, 1, 0, 0, 0, 0], dtype=torch.int8)}
    net.params["w"].data[:4] = torch.tensor([0.5, 0.1, -0.1, 0.0])
    DeepR(density=0.5, distribution=uniform).rewire(net, Clock(1, 10), None)
    assert ones(net.masks["w"])[:2] == [0, 3], "at zero exactly it lives"
    assert net.counts == {"w": 4}
    assert net.params["w"].tolist() == [0.5, 0, 0, 0, 0, 0, 0, 0]
    assert net.memory["sign"]["w"].tolist() == [1, 0, 0, 1, 0, 0, 0, 0]


def test_nothing_happens_without_a_death():
    net = layers(w=[0.5, -0.4, 0, 0])
    net.memory["sign"] = {"w": torch.tensor([1, -1, 0, 0], dtype=torch.int8)}
    version = net.version
    DeepR(density=0.5, distribution=uniform).rewire(net, Clock(1, 10), None)
    assert net.version == version


def test_new_connections_take_the_sign_of_their_first_move():
    net = layers(w=[0.5, -0.4, 0, 0])
    net.memory["sign"] = {"w": torch.tensor([0, 0, 0, 0], dtype=torch.int8)}
    DeepR(density=0.5, distribution=uniform).rewire(net, Clock(1, 10), None)
    assert net.memory["sign"]["w"].tolist() == [1, -1, 0, 0]


def test_fixed_signs_are_drawn():
    net = random_layers({"w": (20, 50)})
    net.set_masks({"w": torch.ones(20, 50).bool()})
    net.memory["sign"] = {"w": torch.zeros(20, 50, dtype=torch.int8)}
    net.params["w"].data.zero_()
    DeepR(density=1.0, fixed_signs=True).rewire(net, Clock(1, 10), None)
    values = net.memory["sign"]["w"]
    assert (values != 0).all()
    assert abs(int(values.sum())) < 150


@pytest.mark.parametrize(
    ("rate", "temperature", "mostafa_wang", "bellec"),
    [(0.1, 1e-5, 4.5e-4, 1e-6), (0.02, 1e-8, 2.8e-6, 2e-7), (0.004, 1e-12, 5.7e-9, 4e-8)],
)
def test_the_published_walks(rate, temperature, mostafa_wang, bellec):
    """Deviation of a step in the long run, at momentum 0.9: lr / (1 - mu) sqrt(2 * 0.01 * T), and lr * 1e-5."""
    for walk, deviation in (("mostafa_wang", mostafa_wang), ("bellec", bellec)):
        net = random_layers({"w": (100, 200)})
        net.params["w"].data = torch.full((100, 200), 1e-7).double()  # so small that a step is not rounded away
        method = DeepR(density=0.5, temperatures=(temperature,), cools_at=(), l1=0.0, walk=walk, every=10**6)
        method.start(net, NO_PROBE)
        optimizer = torch.optim.SGD(list(net.params.values()), lr=rate, momentum=0.9)
        total = 400
        first = net.params["w"].detach().clone()
        for step in range(total):
            net.params["w"].grad = torch.zeros(100, 200).double()
            with pytest.warns(UserWarning, match="no mask update") if step == 0 else contextlib.nullcontext():
                method.before_step(net, Clock(step, total * 2), optimizer)
            optimizer.step()
            method.after_step(net, Clock(step + 1, total * 2), optimizer)
        moves = (net.params["w"].detach() - first)[net.masks["w"]]
        ramp = 10 if walk == "mostafa_wang" else 0  # momentum passes the last noises on later
        assert float(moves.std()) == pytest.approx(deviation * (total - ramp) ** 0.5, rel=0.05), walk
        assert not net.params["w"].detach()[~net.masks["w"]].any()


def test_the_pull_passes_through_momentum_as_in_the_code_of_the_temperatures():
    for walk, share in (("mostafa_wang", 10.0), ("bellec", 1.0), ("langevin", 1.0)):
        net = random_layers({"w": (10, 20)})
        net.params["w"].data.fill_(3.0)
        method = DeepR(density=0.5, temperatures=(0.0,), cools_at=(), l1=0.01, noise=0.0, walk=walk)
        method.start(net, NO_PROBE)
        optimizer = torch.optim.SGD(list(net.params.values()), lr=0.1, momentum=0.9)
        for step in range(200):
            net.params["w"].grad = torch.zeros(10, 20)
            method.before_step(net, Clock(step, 1000), optimizer)
            optimizer.step()
            before = net.params["w"].detach().clone()
            method.after_step(net, Clock(step + 1, 1000), optimizer)
        last = optimizer.state[net.params["w"]]["momentum_buffer"] * 0.1 + before - net.params["w"].detach()
        torch.testing.assert_close(last[net.masks["w"]], torch.full((100,), share * 0.1 * 0.01), rtol=1e-3, atol=1e-6)


def test_it_ends_with_until_and_leaves_dense_layers_alone():
    net = random_layers({"dense": (4, 5), "w": (10, 20)})
    method = DeepR(density=0.5, distribution=lambda shapes, density: {"dense": 1.0, "w": 0.5}, walk="langevin")
    method.start(net, NO_PROBE)
    optimizer = torch.optim.SGD(list(net.params.values()), lr=0.1)
    before = {name: p.detach().clone() for name, p in net.params.items()}
    method.after_step(net, Clock(191, 200), optimizer)
    assert all(torch.equal(p.detach(), before[name]) for name, p in net.params.items())
    method.after_step(net, Clock(190, 200), optimizer)
    assert torch.equal(net.params["dense"].detach(), before["dense"])
    assert not torch.equal(net.params["w"].detach(), before["w"])
    net.params["dense"].data *= -1
    method.rewire(net, Clock(190, 200), optimizer)
    assert bool((net.params["dense"].detach() != 0).all())


def test_the_walk_of_the_differential_equation_has_pull_and_noise_of_the_right_size():
    """No gradient: the mean moves by -lr l1, the deviation is sqrt(2 lr T)."""
    net = random_layers({"w": (100, 200)})
    net.params["w"].data.fill_(3.0)
    method = DeepR(density=0.5, l1=0.2, temperatures=(0.02, 0.0), cools_at=(0.5,), walk="langevin")
    method.start(net, NO_PROBE)
    optimizer = torch.optim.SGD(list(net.params.values()), lr=0.1)
    method.walk_(net, Clock(1, 10), optimizer)
    moves = (net.params["w"].detach() - 3.0)[net.masks["w"]].double()
    assert float(moves.mean()) == pytest.approx(-0.02, abs=0.003)
    assert float(moves.std()) == pytest.approx(math.sqrt(2 * 0.1 * 0.02), rel=0.03)
    assert not net.params["w"].detach()[~net.masks["w"]].any()
    before = net.params["w"].detach().clone()
    method.walk_(net, Clock(6, 10), optimizer)  # cold: only the pull is left
    torch.testing.assert_close(before - net.params["w"].detach(), 0.02 * net.masks["w"].float())


@pytest.mark.parametrize("fixed", [False, True])
def test_two_hundred_steps_keep_each_layer_and_rewire(fixed):
    method = DeepR(density=0.3, fixed_signs=fixed, temperatures=(1e-2,), cools_at=(), walk="langevin")
    net, seen = random_layers(), set()
    for _ in drive(method, net, 200):
        assert net.counts == method.budget(net)
        seen.add(net.digest())
        for name, sign in net.memory["sign"].items():
            assert not sign[~net.masks[name]].any()
    assert len(seen) > 100


def test_a_dense_layer_replaces_in_place():
    net = random_layers({"w": (4, 5)})
    for _ in drive(DeepR(density=1.0), net, 100):
        assert net.masks["w"].all()


def test_a_block_dies_when_its_members_do_together():
    net = layers(w=[[0.5, 0.5], [0.5, 0.2], [0, 0], [0, 0]])
    net.memory["sign"] = {"w": torch.tensor([[1, 1], [1, 1], [0, 0], [0, 0]], dtype=torch.int8)}
    net.params["w"].data[:2] = torch.tensor([[-0.1, -0.4], [0.3, 0.2]])  # sums .2 and -.2
    DeepR(density=0.5, distribution=uniform, pattern=Blocks(2, 1)).rewire(net, Clock(1, 10), None)
    assert net.masks["w"][:2].int().tolist() == [[1, 0], [1, 0]]
    assert int(net.masks["w"].sum()) == 4


def test_impossible_settings():
    with pytest.raises(ValueError, match="one temperature more than moments"):
        DeepR(temperatures=(1.0,), cools_at=(0.5,))
