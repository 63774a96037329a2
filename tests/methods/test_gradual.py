"""Gradual and one-shot magnitude pruning, and static masks, without Lightning."""

from functools import partial

import pytest
import torch
from torch import nn

from sparsebench.functional import score
from sparsebench.functional.counts import global_budget
from sparsebench.functional.distribution import erk, uniform
from sparsebench.functional.schedule import linear
from sparsebench.methods import GMP, Clock, Dense, OneShot, Probe, Static
from sparsebench.sparse import SparseModel

NO_PROBE = Probe(lambda number: [], lambda weights: torch.zeros(()))


def network(seed=0):
    torch.manual_seed(seed)
    return {"conv": nn.Parameter(torch.randn(8, 4, 3, 3)), "fc": nn.Parameter(torch.randn(10, 72))}


def train(method, total, *, params=None):
    """Train on noise; yield (steps taken, net) after each step."""
    params = params or network()
    net = SparseModel(params)
    method.start(net, NO_PROBE)
    optimizer = torch.optim.SGD(list(params.values()), lr=0.01, momentum=0.9, weight_decay=1e-3)
    for step in range(total):
        generator = torch.Generator().manual_seed(step)
        for p in params.values():
            p.grad = torch.randn(p.shape, generator=generator)
        clock = Clock(step, total)
        method.before_step(net, clock, optimizer)
        optimizer.step()
        method.after_step(net, clock.after, optimizer)
        yield step + 1, net


@pytest.mark.parametrize("distribution", [uniform, erk, global_budget])
def test_gmp_follows_the_cubic_curve(distribution):
    size = 288 + 720
    seen, before = {}, None
    for step, net in train(GMP(density=0.1, every=10, until=0.8, distribution=distribution), 100):
        seen[step] = sum(net.counts.values())
        if before is not None:
            assert all(not (net.masks[n] & ~before[n]).any() for n in before), "nested: nothing returns"
        before = {n: m.clone() for n, m in net.masks.items()} or None
        assert all(not p.detach()[~net.mask(n)].any() for n, p in net.params.items())
    for step in range(10, 81, 10):
        progress = step / 80
        assert seen[step] == pytest.approx(size * (0.1 + 0.9 * (1 - progress) ** 3), abs=1)
    assert seen[40] == round(size * (1 - 0.7875))
    assert seen[9] == size
    assert seen[80] == seen[100] == round(0.1 * size)


def test_gmp_reaches_the_budget_at_its_end_whatever_the_period():
    counts = {step: sum(net.counts.values()) for step, net in train(GMP(density=0.1, every=30, until=0.75), 100)}
    assert counts[74] > counts[75] == counts[100] == round(0.1 * 1008)


def test_gmp_starts_late():
    method = GMP(density=0.1, every=10, start_at=0.5, until=0.9)
    counts = {step: sum(net.counts.values()) for step, net in train(method, 100)}
    assert counts[50] == 1008
    assert counts[60] < 1008
    assert counts[90] == round(0.1 * 1008)


@pytest.mark.parametrize("distribution", [uniform, global_budget])
def test_one_shot_prunes_once_by_magnitude(distribution):
    method = OneShot(density=0.2, at=0.4, distribution=distribution)
    versions = {}
    for step, net in train(method, 20):
        versions[step] = net.version
        if step == 8:
            mask = {n: m.clone() for n, m in net.masks.items()}
            assert all(bool(p.detach()[mask[n]].all()) for n, p in net.params.items())
    assert [step for step in versions if versions[step] == 1] == list(range(1, 8))
    assert versions[20] == 2
    assert sum(net.counts.values()) == round(0.2 * 1008)


def test_one_shot_takes_the_largest():
    parameter = nn.Parameter(torch.tensor([1.0, -4.0, 3.0, -2.0]))
    net = SparseModel({"w": parameter})
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    OneShot(density=0.5, distribution=uniform).after_step(net, Clock(1, 2), optimizer)
    assert parameter.tolist() == [0.0, -4.0, 3.0, 0.0]


def test_constant_weights_keep_exactly_the_budget():
    params = {"w": nn.Parameter(torch.ones(100))}
    *_, (_, net) = train(GMP(density=0.1, every=1, until=0.5, distribution=uniform), 10, params=params)
    assert net.counts == {"w": 10}


def test_a_weight_that_is_zero_stays_before_one_that_was_pruned():
    parameter = nn.Parameter(torch.tensor([0.0, 5.0, 4.0, 3.0]))
    net = SparseModel({"w": parameter})
    net.set_masks({"w": torch.tensor([True, True, False, False])})
    masks = GMP(density=0.5, distribution=uniform).prune(net, 1.0)
    assert masks["w"].tolist() == [True, True, False, False]


def test_static_masks_stay_and_depend_on_the_seed():
    digests = {}
    for seed in (0, 0, 1):
        net = SparseModel(network(), seed=seed)
        Static(density=0.1).start(net, NO_PROBE)
        assert sum(net.counts.values()) == round(0.1 * 1008)
        digests.setdefault(seed, set()).add(net.digest())
    assert len(digests[0]) == 1
    assert digests[0] != digests[1]
    for _, net in train(Static(density=0.1), 5):
        assert net.version == 1


def test_masks_do_not_depend_on_the_memory_format():
    params = network()
    other = {n: nn.Parameter(p.detach().clone()) for n, p in params.items()}
    other["conv"] = nn.Parameter(other["conv"].detach().to(memory_format=torch.channels_last))
    digests = set()
    for each in (params, other):
        *_, (_, net) = train(GMP(density=0.2, every=2, until=0.8), 10, params=each)
        digests.add(net.digest())
    assert len(digests) == 1


def test_dense_changes_nothing():
    for _, net in train(Dense(), 3):
        assert net.masks == {}
        assert net.density == 1.0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GMP(every=-1), "every > 0"),
        (lambda: GMP(start_at=0.8, until=0.5), "start_at < until"),
        (lambda: OneShot(at=1.0), r"choose a share of the budget in \(0, 1\)"),
        (lambda: Static(density=1.2), "at least 0 and below 1"),
    ],
)
def test_says_what_is_wrong(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# -- score and curve are values ----


@pytest.mark.parametrize(
    "make", [lambda **o: GMP(every=5, **o), lambda **o: OneShot(at=0.5, **o)], ids=["gmp", "one_shot"]
)
def test_the_score_decides_which_weights_stay(make):
    """After one pruning, saliency keeps the largest |w g| of the weights and gradient of that step, in one ranking."""
    method = make(density=0.3, score=score.snip, distribution=global_budget)
    *_, (_, net) = train(method, 10)
    assert sum(net.counts.values()) == round(0.3 * 1008)
    toy = SparseModel(network())
    slopes = {n: torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) for n, p in toy.params.items()}
    toy.memory["gradient"] = dict(slopes)
    ranked = method.rank(toy)
    wanted = {n: (p.detach() * slopes[n]).abs() for n, p in toy.params.items()}
    assert all(torch.equal(ranked[n], wanted[n]) for n in wanted)
    assert "gradient" not in toy.memory


def test_pruned_weights_never_return_whatever_the_score():
    before = None
    for _, net in train(GMP(density=0.1, every=3, score=score.gradient, distribution=global_budget), 40):
        if before is not None:
            assert all(not (net.masks[n] & ~before[n]).any() for n in before)
        before = {n: m.clone() for n, m in net.masks.items()} or None
    assert sum(net.counts.values()) == round(0.1 * 1008)


def test_the_curve_is_a_value():
    seen = {
        step: sum(net.counts.values())
        for step, net in train(GMP(density=0.1, every=10, until=0.8, schedule=linear), 100)
    }
    assert all(seen[s] == pytest.approx(1008 * (1 - 0.9 * s / 80), abs=1) for s in range(10, 81, 10))


@pytest.mark.parametrize("function", [score.grasp, partial(score.grasp), score.synflow])
def test_scores_that_need_more_than_a_gradient_are_refused(function):
    with pytest.raises(ValueError, match=r"needs more than the gradient of a step.*choose magnitude, snip or gradient"):
        GMP(score=function)
