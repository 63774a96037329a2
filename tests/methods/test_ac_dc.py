"""AC/DC: the published phase tables, what happens at their borders, budgets that are too short."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import Toy, run

from sparsebench.cost.passes import DENSE, SPARSE
from sparsebench.functional.distribution import uniform
from sparsebench.methods import ACDC, Clock
from sparsebench.patterns import NofM

IMAGENET = {"warmup": 0.1, "sparse": 0.05, "dense": 0.05, "last_dense": 0.1, "final": 0.15}
DENSE13 = {"warmup": 10 / 225, "sparse": 20 / 225, "dense": 13 / 225, "last_dense": 13 / 225, "final": 50 / 225}

# a short training: dense 0-1, sparse 2-3, dense 4-5, sparse 6-7, dense 8-9, sparse 10-11
SHORT = {"warmup": 1 / 6, "sparse": 1 / 6, "dense": 1 / 6, "last_dense": 1 / 6, "final": 1 / 6}


def starts(method, total):
    phases = method.phases(total)
    return [p.start for p in phases if not p.sparse], [p.start for p in phases if p.sparse]


def test_the_phases_are_those_of_the_paper():
    dense, sparse = starts(ACDC(**IMAGENET), 100)
    assert dense == [0, 15, 25, 35, 45, 55, 65, 75]
    assert sparse == [10, 20, 30, 40, 50, 60, 70, 85]
    dense, sparse = starts(ACDC(), 200)
    assert (dense, sparse) == ([0, 30, 70, 110, 150], [10, 50, 90, 130, 170])
    dense, sparse = starts(ACDC(**DENSE13), 225)
    assert (dense, sparse) == ([0, 30, 63, 96, 129, 162], [10, 43, 76, 109, 142, 175])


def test_epochs_become_steps():
    dense, sparse = starts(ACDC(**IMAGENET), 100 * 391)
    assert dense == [391 * e for e in (0, 15, 25, 35, 45, 55, 65, 75)]
    assert sparse == [391 * e for e in (10, 20, 30, 40, 50, 60, 70, 85)]


@settings(max_examples=60, deadline=None)
@given(shares=st.tuples(*[st.floats(0.02, 0.3)] * 5), total=st.integers(300, 10_000))
def test_phases_divide_training_and_alternate(shares, total):
    method = ACDC(**dict(zip(SHORT, shares, strict=True)))
    phases = method.phases(total)
    assert phases[0].start == 0
    assert phases[-1].stop == total
    assert all(a.stop == b.start and a.sparse != b.sparse for a, b in pairwise(phases))
    assert not phases[0].sparse
    assert phases[-1].sparse
    assert phases[-1].start == pytest.approx(total * (1 - shares[4]), abs=0.51)
    for step in (0, total // 3, total - 1):
        inside = method.phase(Clock(step, total))
        assert inside.start <= step < inside.stop


def test_what_happens_at_the_borders():
    toy = Toy()
    method = ACDC(density=0.1, **SHORT)
    never_sparse = [p for name, p in toy.module.named_parameters() if name.endswith("bias")]
    masks, buffers = {}, {}
    for done in toy.train(method, 12):
        state = toy.optimizer.state
        sparse = done in (2, 3, 6, 7, 10, 11, 12)  # what the next step finds
        assert toy.net.density == (round(0.1 * 144) / 144 if sparse else 1.0), done
        if done in (2, 6, 10):  # a sparse phase begins: a new mask, by magnitude; what stays keeps its momentum
            kept = torch.cat([p.detach()[toy.net.masks[n]].abs() for n, p in toy.net.params.items()])
            assert kept.min() > 0
            for name, p in toy.net.params.items():
                assert not p.detach()[~toy.net.masks[name]].any()
                assert not state[p]["momentum_buffer"][~toy.net.masks[name]].any()
            assert any(state[p]["momentum_buffer"].any() for p in toy.net.params.values())
            assert all(state[p]["momentum_buffer"].any() for p in never_sparse)
            masks = {name: mask.clone() for name, mask in toy.net.masks.items()}
        elif sparse:
            assert all(torch.equal(masks[name], mask) for name, mask in toy.net.masks.items()), "fixed in the phase"
            for name, p in toy.net.params.items():
                assert not p.detach()[~masks[name]].any()
        if done in (4, 8):  # a dense phase begins: regrown weights are zero, all momentum is forgotten
            for name, p in toy.net.params.items():
                assert not p.detach()[~masks[name]].any()
            assert all(not state[p]["momentum_buffer"].any() for p in toy.module.parameters())
            buffers = {p: state[p]["momentum_buffer"] for p in toy.module.parameters()}
        if done in (5, 9):
            assert all(buffer.any() for buffer in buffers.values())
            assert all(p.detach()[~masks[name]].any() for name, p in toy.net.params.items() if (~masks[name]).any())
    assert toy.net.density == round(0.1 * 144) / 144


def test_the_masks_are_the_largest_magnitudes():
    toy = Toy()
    method = ACDC(density=0.3, **SHORT)
    assert list(toy.train(method, 12, stop=2, optimizer=lambda t: t.sgd(lr=0.0))) == [1, 2]
    weights = torch.cat([w.abs().reshape(-1) for w in Toy().weights().values()])
    mask = torch.cat([m.reshape(-1) for m in toy.net.masks.values()])
    assert torch.equal(mask.nonzero().reshape(-1), weights.topk(43).indices.sort().values)


def test_adam_forgets_its_first_moment():
    toy = Toy()
    for _ in toy.train(
        ACDC(density=0.1, **SHORT), 12, stop=4, optimizer=lambda t: torch.optim.AdamW(t.module.parameters())
    ):
        pass
    for p in toy.module.parameters():
        assert not toy.optimizer.state[p]["exp_avg"].any()
    assert toy.optimizer.state[toy.module[0].bias]["exp_avg_sq"].any()


def test_passes_follow_the_phases():
    net, method = Toy().net, ACDC(**IMAGENET)
    kinds = [method.passes(net, Clock(step, 100)) for step in range(100)]
    assert kinds.count(DENSE) == 10 + 6 * 5 + 10
    assert kinds.count(SPARSE) == 7 * 5 + 15
    assert kinds[9:11] == [DENSE, SPARSE]


def test_patterns_and_layers():
    toy = run(Toy(widths=(6, 8, 4)), ACDC(density=0.5, distribution=uniform, pattern=NofM(n=1, m=2), **SHORT), 12)
    for mask in toy.net.masks.values():
        assert (mask.reshape(mask.shape[0], -1, 2).sum(-1) == 1).all()


def test_too_short_a_training_is_refused_with_the_nearest_that_works():
    with pytest.raises(ValueError, match=r"16 phases.*training of 12: train for at least (\d+) steps") as caught:
        run(Toy(), ACDC(**IMAGENET), 12)
    enough = int(str(caught.value).split("at least ")[1].split()[0])
    run(Toy(), ACDC(**IMAGENET), enough)
    with pytest.raises(ValueError, match="16 phases"):
        run(Toy(), ACDC(**IMAGENET), enough - 1)


@pytest.mark.parametrize("lengths", [{"warmup": 0.0}, {"sparse": -0.1}, {"final": 0.9}])
def test_impossible_lengths_are_refused(lengths):
    with pytest.raises(ValueError, match="leave room for the alternation"):
        ACDC(**lengths)
