"""SNFS and DSR: updates worked by hand, totals, the adaptive threshold, the periods, dividing a total."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from noise import NO_PROBE, drive, layers, ones, random_layers

from sparsebench.cost.passes import SPARSE, SPARSE_DENSE_WEIGHT
from sparsebench.functional.allotment import allot
from sparsebench.functional.distribution import uniform
from sparsebench.functional.schedule import constant
from sparsebench.methods import DSR, SNFS, Clock

SHARE = {"drop_fraction": 0.5, "drop_schedule": constant, "density": 0.5, "distribution": uniform}


def two_layers():
    return layers(a=[4.0, 3, 2, 1, 0, 0, 0, 0], b=[0.4, 0.3, 0.2, 0.1, 0, 0, 0, 0])


def snfs_net():
    net = two_layers()
    net.memory["momentum"] = {
        "a": torch.tensor([3.0, -3, 3, -3, 0.1, -0.5, 0.4, 0.2]),
        "b": torch.tensor([1.0, 1, -1, 1, 0.2, 0.1, -7, 0.3]),
    }
    return net


# -- SNFS --------------------------------------------------------------------------------------------------------------


def test_snfs_by_hand():
    """Each layer drops 2; mean momenta are 3 and 1: of the 4 that grow, a receives 3 and b one, by |momentum|."""
    net = snfs_net()
    SNFS(**SHARE, exclude_dropped=True).rewire(net, Clock(1, 10), None)
    assert ones(net.masks["a"]) == [0, 1, 5, 6, 7]
    assert ones(net.masks["b"]) == [0, 1, 6]
    assert net.params["a"].tolist() == [4, 3, 0, 0, 0, 0, 0, 0]
    assert net.params["b"].tolist() == pytest.approx([0.4, 0.3, 0, 0, 0, 0, 0, 0])


def test_snfs_the_just_dropped_may_return():
    net = snfs_net()
    SNFS(**SHARE).rewire(net, Clock(1, 10), None)
    assert ones(net.masks["a"]) == [0, 1, 2, 3, 5]
    assert net.params["a"].tolist() == [4, 3, 2, 1, 0, 0, 0, 0], "and keeps its value"


def test_snfs_without_redistribution():
    net = snfs_net()
    SNFS(**SHARE, exclude_dropped=True, redistribute=False).rewire(net, Clock(1, 10), None)
    assert ones(net.masks["a"]) == [0, 1, 5, 6]
    assert ones(net.masks["b"]) == [0, 1, 6, 7]


def test_snfs_spares_a_nearly_dense_layer_that_deserves_more():
    """Layer a is 1/8 sparse: it drops ceil(7 / 8) = 1 instead of 4; if it deserved less, it would drop 4."""
    net = layers(a=[7.0, 6, 5, 4, 3, 2, 1, 0], b=[0.1, 0, 0, 0, 0, 0, 0, 0])
    method = SNFS(**SHARE, drop_count="ceil")
    net.memory["momentum"] = {"a": torch.full((8,), 2.0), "b": torch.full((8,), 1.0)}
    assert method.dropped(net, "a", 0.5) == 1
    net.memory["momentum"]["b"] *= 5
    assert method.dropped(net, "a", 0.5) == 4


def test_snfs_fills_at_most_99_percent_of_a_layer():
    net = layers(a=[1.0] * 100 + [0.0] * 100, b=[1.0] * 300 + [0.0] * 1000)
    net.memory["momentum"] = {"a": torch.full((200,), 1.0), "b": torch.full((1300,), 1e-6)}
    SNFS(**{**SHARE, "density": 400 / 1500}).rewire(net, Clock(1, 10), None)
    assert net.counts == {"a": 50 + 148, "b": 202}, "of 150 free places 148; b takes the other 52 of 200"


def test_snfs_averages_dense_gradients_in_its_own_memory():
    net = random_layers({"w": (6, 8)})
    method = SNFS(density=0.25, momentum=0.75)
    method.start(net, NO_PROBE)
    optimizer = torch.optim.SGD(list(net.params.values()), lr=0.1)
    expected = torch.zeros(6, 8)
    for step in range(5):
        gradient = torch.full((6, 8), float(step + 1))
        net.params["w"].grad = gradient.clone()
        method.before_step(net, Clock(step, 1000), optimizer)
        expected = 0.75 * expected + 0.25 * gradient
        assert torch.equal(net.params["w"].grad != 0, net.masks["w"]), "what the optimizer sees is masked"
        assert method.passes(net, Clock(step, 1000)) == SPARSE_DENSE_WEIGHT
    torch.testing.assert_close(net.memory["momentum"]["w"], expected)


@pytest.mark.parametrize("method", [SNFS, DSR])
def test_two_hundred_updates_keep_the_total_and_move_it(method):
    options = {"threshold": 0.1, "doubles_at": ()} if method is DSR else {}
    chosen = method(density=0.3, every=1, until=1.0, **options)
    net, seen = random_layers(), set()
    for _ in drive(chosen, net, 200):
        assert sum(net.counts.values()) == round(0.3 * (288 + 192 + 96))
        seen.add(tuple(net.counts.values()))
    assert len(seen) > 20, "weights move between layers"


def test_snfs_never_drains_a_layer_of_small_momentum():
    """Layer b drops ceil(.005 * 4) = 1 each time and deserves 1 % of 3: rounded down, it would be empty after four."""
    net = layers(a=[float(i) for i in range(1, 301)] + [0.0] * 700, b=[4.0, 3, 2, 1, 0, 0, 0, 0])
    net.memory["momentum"] = {"a": torch.full((1000,), 1.0), "b": torch.full((8,), 0.01)}
    method = SNFS(**{**SHARE, "density": 304 / 1008, "drop_fraction": 0.005, "drop_count": "ceil"})
    for step in range(1, 41):
        method.rewire(net, Clock(step, 100), None)
        assert net.counts == {"a": 300, "b": 4}


def test_snfs_brings_an_empty_layer_back():
    """No active weight speaks for it: it is judged by the momentum over all its places."""
    net = layers(a=[4.0, 3, 2, 1, 0, 0, 0, 0], b=[0.0] * 8)
    net.memory["momentum"] = {"a": torch.full((8,), 3.0), "b": torch.tensor([0.0, 8, 0, 0, 0, 0, 0, 0])}
    SNFS(**{**SHARE, "density": 0.25}).rewire(net, Clock(1, 10), None)
    assert net.counts == {"a": 3, "b": 1}, "shares 3 and 1 of the 2 that were dropped: quotas 1.5 and 0.5"
    assert ones(net.masks["b"]) == [1]


def test_snfs_empties_no_layer_of_a_deep_narrow_network():
    shapes = {f"conv{i}": (8, 8, 3, 3) for i in range(6)} | {"fc": (10, 64)}
    net = random_layers(shapes)
    for _ in drive(SNFS(density=0.02, every=1), net, 150):
        assert min(net.counts.values()) >= 1


def test_snfs_velocity_of_what_grows():
    """At rest by default; with keep_velocity the dense sum of gradients, 1 / (1 - mu) times the average."""
    for keep in (False, True):
        net = random_layers({"w": (6, 8)})
        method = SNFS(density=0.25, momentum=0.75, every=4, until=1.0, exclude_dropped=True, keep_velocity=keep)
        method.start(net, NO_PROBE)
        optimizer = torch.optim.SGD(list(net.params.values()), lr=0.1, momentum=0.75)
        total, before = torch.zeros(6, 8), net.masks["w"]
        for step in range(4):
            gradient = torch.randn(6, 8, generator=torch.Generator().manual_seed(step))
            total = 0.75 * total + gradient
            net.params["w"].grad = gradient.clone()
            method.before_step(net, Clock(step, 100), optimizer)
            optimizer.step()
            method.after_step(net, Clock(step + 1, 100), optimizer)
        velocity = optimizer.state[net.params["w"]]["momentum_buffer"]
        grown = net.masks["w"] & ~before
        assert grown.any()
        torch.testing.assert_close(velocity[grown], total[grown] if keep else torch.zeros_like(total[grown]))
        assert not velocity[~net.masks["w"]].any()
    with pytest.raises(
        ValueError, match="keep_velocity needs the velocity of SGD with momentum, and AdamW has no velocity"
    ):
        drive_once(SNFS(density=0.25, every=1, keep_velocity=True), torch.optim.AdamW)


def drive_once(method, optimizer):
    return next(iter(drive(method, random_layers(), 4, optimizer=lambda params: optimizer(params, lr=0.1))))


def test_snfs_averages_the_decay_of_active_weights_where_asked():
    net = random_layers({"w": (6, 8)})
    method = SNFS(density=0.25, momentum=0.75, average_decay=True)
    method.start(net, NO_PROBE)
    optimizer = torch.optim.SGD(list(net.params.values()), lr=0.1, weight_decay=0.5)
    net.params["w"].grad = torch.ones(6, 8)
    weight = net.params["w"].detach().clone()
    method.before_step(net, Clock(0, 1000), optimizer)
    torch.testing.assert_close(net.memory["momentum"]["w"], 0.25 * (1 + 0.5 * weight))


# -- DSR ---------------------------------------------------------------------------------------------------------------


def dsr_net():
    net = layers(a=[0.5, 0.0005, 0.0008, -0.9, 0, 0, 0, 0], b=[0.0002, 0.3, -0.4, 0.2, 0, 0, 0, 0])
    net.memory["threshold"] = {"all": torch.tensor(1e-3, dtype=torch.float64)}
    return net


def test_dsr_by_hand():
    """Three fall below 1e-3. Survivors are 2 and 3, so quotas are 1.2 and 1.8: a grows 1, b grows 2."""
    net = dsr_net()
    before = {name: mask.clone() for name, mask in net.masks.items()}
    DSR(density=0.5, distribution=uniform).rewire(net, Clock(100, 1000), None)
    assert net.counts == {"a": 3, "b": 5}
    assert {0, 3} < set(ones(net.masks["a"]))
    assert {1, 2, 3} < set(ones(net.masks["b"]))
    for name, dropped in (("a", [1, 2]), ("b", [0])):
        assert not net.masks[name][dropped].any(), "the just dropped do not return"
        grown = net.masks[name] & ~before[name]
        assert not net.params[name].detach()[grown].any()


@pytest.mark.parametrize(("meant", "factor"), [(0.1, 0.5), (0.375, 1.0), (0.35, 1.0), (0.6, 2.0)])
def test_dsr_adapts_its_threshold(meant, factor):
    """3 of 8 are dropped: too many for a tenth, right for 3/8 within a tenth, too few for six tenths."""
    net = dsr_net()
    DSR(density=0.5, distribution=uniform, drop_fraction=meant).rewire(net, Clock(100, 1000), None)
    assert float(net.memory["threshold"]["all"]) == pytest.approx(1e-3 * factor)


def test_dsr_never_empties_a_layer():
    net = layers(a=[1e-5, 2e-5, 0, 0], b=[0.5, 0.6, 0, 0])
    net.memory["threshold"] = {"all": torch.tensor(1e-3, dtype=torch.float64)}
    DSR(density=0.5, distribution=uniform).rewire(net, Clock(100, 1000), None)
    assert net.masks["a"][1]
    assert sum(net.counts.values()) == 4


def test_dsr_doubles_its_period():
    method = DSR(density=0.5, every=10, doubles_at=(0.25, 0.5), until=0.9)
    due = [step for step in range(1, 401) if method._due(Clock(step, 400))]
    assert due == [*range(10, 100, 10), *range(100, 200, 20), *range(200, 361, 40)]
    assert method.passes(random_layers(), Clock(9, 400)) == SPARSE


def test_dsr_makes_no_update_after_the_last_step():
    """What grew then would never train: a tenth of the weights would be zeros in the final network."""
    assert not DSR(density=0.5, every=10, doubles_at=(), until=1.0)._due(Clock(400, 400))


@pytest.mark.parametrize("make", [lambda: SNFS(momentum=1.0), lambda: DSR(threshold=0.0), lambda: DSR(tolerance=1.0)])
def test_impossible_settings(make):
    with pytest.raises(ValueError, match=r"impossible|must be"):
        make()


# -- dividing what was dropped over layers ---------------------------------------------------------------------------


def test_shares_are_proportional():
    assert allot(10, {"a": 3.0, "b": 1.0, "c": 1.0}, {"a": 99, "b": 99, "c": 99}) == {"a": 6, "b": 2, "c": 2}


def test_overflow_is_spread_evenly():
    """Layer a deserves 90 of 100 and takes 9 of its 10 places; the other 81 go half and half."""
    shared = allot(100, {"a": 9.0, "b": 1.0, "c": 0.0}, {"a": 10, "b": 500, "c": 500}, fill=0.9)
    assert shared == {"a": 9, "b": 10 + 41, "c": 40}


def test_the_last_places_are_used_when_nothing_else_is_left():
    assert allot(20, {"a": 1.0, "b": 1.0}, {"a": 10, "b": 10}, fill=0.5) == {"a": 10, "b": 10}


def test_rounded_up_every_claim_is_heard():
    """Quotas are 9.7, 0.2 and 0.1: rounded up 10 + 1 + 1, and the two too many are taken from the largest."""
    places = {"a": 99, "b": 99, "c": 99}
    assert allot(10, {"a": 97.0, "b": 2.0, "c": 1.0}, places, up=True) == {"a": 8, "b": 1, "c": 1}
    assert allot(10, {"a": 97.0, "b": 2.0, "c": 1.0}, places) == {"a": 10, "b": 0, "c": 0}
    assert allot(9, {"a": 3.0, "b": 1e-15, "c": 0.0}, places, up=True) == {"a": 8, "b": 1, "c": 0}


def test_without_deserts_all_are_equal():
    assert allot(9, {"a": 0.0, "b": 0.0, "c": 0.0}, {"a": 99, "b": 99, "c": 2}) == {"a": 4, "b": 3, "c": 2}


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_a_division_is_exact(data):
    names = "abcd"[: data.draw(st.integers(1, 4))]
    free_places = {n: data.draw(st.integers(0, 50)) for n in names}
    deserved = {n: data.draw(st.floats(0, 10)) for n in names}
    total = data.draw(st.integers(0, sum(free_places.values())))
    up = data.draw(st.booleans())
    shared = allot(total, deserved, free_places, fill=data.draw(st.sampled_from([0.5, 0.99, 1.0])), up=up)
    assert sum(shared.values()) == total
    assert all(0 <= shared[n] <= free_places[n] for n in names)


def test_whole_units_are_divided():
    shared = allot(40, {"a": 1.0, "b": 2.0}, {"a": 400, "b": 400}, units={"a": 8, "b": 8})
    assert shared == {"a": 16, "b": 24}
