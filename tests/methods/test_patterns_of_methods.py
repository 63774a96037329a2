"""Any pattern with any method that drops and grows: over hundreds of updates it holds, and so does the count."""

import pytest
import torch
from noise import NO_PROBE, drive, random_layers

from sparsebench.functional.distribution import erk, uniform
from sparsebench.methods import (
    CHT,
    DSR,
    DSTEE,
    GMP,
    MEST,
    SET,
    SNFS,
    Clock,
    DeepR,
    GraNet,
    OneShot,
    RandomUnfired,
    RigL,
    SoftMEST,
    Static,
)
from sparsebench.patterns import Blocks, Channels, FanIn, NofM, Unstructured

PATTERNS = [Unstructured(), NofM(2, 4), NofM(1, 4), Blocks(4, 1), Blocks(2, 2), Channels(0), Channels(1), FanIn()]


def budget_of(pattern):
    density = pattern.n / pattern.m if isinstance(pattern, NofM) else 0.5
    return {"pattern": pattern, "density": density, "distribution": uniform}


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("method", [SET, RigL])
def test_two_hundred_updates(method, pattern, exclude):
    chosen = method(**budget_of(pattern), every=1, until=1.0, exclude_dropped=exclude, drop_fraction_end=0.2)
    net, seen = random_layers(), set()
    for _ in drive(chosen, net, 200):
        if not seen:
            counts = dict(net.counts)
        seen.add(net.digest())
        assert net.counts == counts
        assert all(pattern.holds(mask) for mask in net.masks.values())
    assert counts == chosen.budget(net)
    assert len(seen) > (20 if isinstance(pattern, Channels) else 100), "connections move"


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize(
    "method",
    [
        lambda **o: Static(**o),
        lambda **o: RandomUnfired(**o, every=2),
        lambda **o: DSTEE(**o, c=1e-3, every=2),
        lambda **o: SNFS(**o, every=2, redistribute=o["pattern"].shifts),
        lambda **o: DSR(**o, every=2, threshold=0.2, redistribute=o["pattern"].shifts),
        lambda **o: DeepR(**o),
        lambda **o: MEST(**o, every=3),
        lambda **o: SoftMEST(**o, every=3),
        lambda **o: GraNet(**{**o, "distribution": uniform}, every=3),
        lambda **o: GMP(**o, every=3),
        lambda **o: OneShot(**o),
        lambda **o: CHT(**o, every=2),
    ],
    ids=["static", "unfired", "dst_ee", "snfs", "dsr", "deep_r", "mest", "soft", "granet", "gmp", "oneshot", "cht"],
)
def test_every_method_takes_any_pattern(method, pattern):
    chosen = method(**budget_of(pattern))
    net = random_layers()
    # channels of different layers differ in size: what moves between layers may leave less than one of them over
    moves = isinstance(chosen, SNFS | DSR) and isinstance(pattern, Channels)
    slack = max(pattern.unit(shape) for shape in net.shapes.values()) - 1 if moves else 0
    for clock in drive(chosen, net, 30):
        if chosen.budget_holds == "always" or clock.step == 30:
            assert 0 <= sum(chosen.budget(net).values()) - sum(net.counts.values()) <= slack
    assert all(pattern.holds(mask) for mask in net.masks.values())


@pytest.mark.parametrize("method", [SNFS, DSR])
def test_weights_cannot_leave_a_layer_of_groups(method):
    with pytest.raises(ValueError, match=r"moves weights between layers, but NofM fixes.*method\.redistribute=false"):
        method(**budget_of(NofM(2, 4))).start(random_layers(), NO_PROBE)


@pytest.mark.parametrize("method", [SET, GMP, OneShot, GraNet, MEST])
def test_contradictions_are_refused_before_training(method):
    net = random_layers()
    with pytest.raises(ValueError, match=r"2:4 has sparsity 0\.5, but 0\.9 is requested"):
        method(pattern=NofM(2, 4), density=0.1, distribution=uniform).start(net, NO_PROBE)
    assert not net.masks
    with pytest.raises(ValueError, match="distribution=uniform"):
        method(pattern=NofM(2, 4), density=0.5, distribution=erk).start(net, NO_PROBE)


def test_gradual_pruning_passes_3_of_4_on_its_way():
    """Density 7/8 (p = .37) and 3/4 (p = .5 gives 9/16) round to 3:4 and 2:4."""
    net = random_layers({"w": (8, 16)})
    seen = []
    for _ in drive(GMP(**budget_of(NofM(2, 4)), every=1, until=0.8), net, 20):
        per_group = net.mask("w").reshape(-1, 4).sum(dim=1)
        assert per_group.unique().numel() == 1
        seen.append(int(per_group[0]))
    assert sorted(set(seen)) == [2, 3, 4]
    assert seen == sorted(seen, reverse=True)


def test_layers_that_are_dense_survive_the_exclusion_of_the_dropped():
    """ERK fills small layers: there is no place for what they drop, so they drop nothing."""
    shapes = {"small": (4, 3), "large": (40, 50)}
    net = random_layers(shapes)
    for _ in drive(SET(density=0.4, every=1, until=1.0, exclude_dropped=True), net, 20):
        assert net.mask("small").all()
    assert sum(net.counts.values()) == round(0.4 * (12 + 2000))


def test_unfired_first():
    """Growth takes every position that never was active before any other."""
    net = random_layers({"w": (10, 20)})
    method = RandomUnfired(density=0.2, every=1, until=1.0, drop_fraction=0.5, drop_fraction_end=0.5)
    explored = []
    for _ in drive(method, net, 12):
        explored.append(int(net.memory["fired"]["w"].sum()))
    assert explored == [min(200, 40 + 20 * update) for update in range(1, 13)]
    before = net.digest()
    method.rewire(net, Clock(12, 12), None)
    assert net.digest() != before, "then growth is random"
    assert torch.equal(net.memory["fired"]["w"], torch.ones(10, 20).bool())
