"""STR and SR-STE: gradients, decay, exact budgets, and that what is stored is what was seen."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from toy import Toy, run

from sparsebench.cost.passes import SPARSE, SPARSE_DENSE_WEIGHT
from sparsebench.functional.distribution import erk, uniform
from sparsebench.methods import SRSTE, STR, Clock
from sparsebench.patterns import NofM

# -- STR --------------------------------------------------------------------------------------------------------------


def learned(toy, method):
    toy.net.learned = {name: nn.Parameter(a.double()) for name, a in method.learned(toy.net).items()}
    method.start(toy.net, toy.probe)


def test_str_shows_the_shrunken_weights():
    toy, method = Toy(), STR(initial=-2.0)
    learned(toy, method)
    threshold = 1 / (1 + torch.exp(torch.tensor(2.0).double()))
    for name, weight in method.view(toy.net).items():
        p = toy.net.params[name].detach()
        torch.testing.assert_close(weight.detach(), p.sign() * (p.abs() - threshold).clamp(min=0))
        assert torch.equal(weight.detach() != 0, toy.net.masks[name]), "the masks measure the support"
        assert 0 < toy.net.densities[name] < 1


def test_str_thresholds_have_the_gradient_of_finite_differences():
    toy, method = Toy(), STR(initial=-2.0)
    learned(toy, method)
    method.loss(toy.net, toy.objective()).backward()
    step = 1e-6
    for a in toy.net.learned.values():
        ends = []
        for shift in (step, -2 * step):
            a.data += shift
            ends.append(float(method.loss(toy.net, toy.objective()).detach()))
        a.data += step
        assert float(a.grad) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-9)
    for name, p in toy.net.params.items():
        assert not p.grad[~toy.net.masks[name]].any(), "inactive weights have no gradient"


def test_decay_alone_makes_str_sparse():
    toy, method = Toy(), STR(initial=-20.0, every=10, topk_at=None)
    learned(toy, method)
    optimizer = torch.optim.SGD(toy.net.learned.values(), lr=0.1, weight_decay=0.2)
    densities = []
    for step in range(300):
        for a in toy.net.learned.values():
            a.grad = torch.zeros_like(a)
        optimizer.step()
        method.after_step(toy.net, Clock(step + 1, 300), optimizer)
        densities.append(toy.net.density)
    assert densities[0] == 1.0
    assert all(a >= b for a, b in pairwise(densities))
    assert densities[-1] < 0.5


@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.parametrize("density", [0.1, 0.9])
def test_str_hits_the_budget_exactly(density, share):
    toy = Toy()
    method = STR(density=density, initial=-3.0, topk_at=share, every=2)
    masks = None
    for done in toy.train(method, 10):
        if done >= share * 10:
            masks = masks or {name: mask.clone() for name, mask in toy.net.masks.items()}
            assert sum(toy.net.counts.values()) == round(density * 144)
            for name, p in toy.net.params.items():
                assert torch.equal(toy.net.masks[name], masks[name])
                assert not p.detach()[~masks[name]].any(), "zeros are stored from then on"
    assert masks


def test_str_keeps_the_largest_margins_and_what_the_network_saw():
    toy, method = Toy(), STR(density=0.2, initial=-2.5)
    learned(toy, method)
    with torch.no_grad():
        toy.net.learned["2.weight"].fill_(-1.0)
    seen = {name: w.detach().clone() for name, w in method.view(toy.net).items()}
    method.fix(toy.net)
    largest = torch.cat([w.abs().reshape(-1) for w in seen.values()]).topk(29).values.min()
    for name, p in toy.net.params.items():
        wanted = torch.where(seen[name].abs() >= largest, seen[name], 0.0)
        assert torch.equal(p.detach(), wanted)
        assert torch.equal(method.view(toy.net)[name], p)


def test_str_without_a_target_stores_what_was_seen():
    toy = Toy()
    method = STR(initial=-2.0, topk_at=None)
    for _ in toy.train(method, 5, finish=False):
        pass
    seen = {name: w.detach().clone() for name, w in method.view(toy.net).items()}
    for _ in range(2):
        method.finish(toy.net)
        for name, p in toy.net.params.items():
            assert torch.equal(p.detach(), seen[name])
            assert torch.equal(p.detach() != 0, toy.net.masks[name])


def test_str_cut_short_still_ends_at_the_budget():
    toy = Toy()
    for _ in toy.train(STR(density=0.2, topk_at=0.9), 10, stop=4):
        pass
    assert sum(toy.net.counts.values()) == 29


def test_str_options_and_cost():
    assert STR().learned_options() == {}
    assert STR(threshold_decay=0.0, threshold_lr=0.5).learned_options() == {"weight_decay": 0.0, "lr": 0.5}
    assert STR().passes(Toy().net, Clock(0, 10)) == SPARSE
    for wrong in ({"topk_at": 0.0}, {"topk_at": 1.1}, {"every": 0}):
        with pytest.raises(ValueError, match="topk_at"):
            STR(**wrong)


# -- SR-STE -----------------------------------------------------------------------------------------------------------


def test_sr_ste_follows_its_update():
    toy, method = Toy(), SRSTE(density=0.3, decay=0.05)
    method.start(toy.net, toy.probe)
    weights, masks = toy.weights(), {name: mask.clone() for name, mask in toy.net.masks.items()}
    leaves = {name: (w * masks[name]).requires_grad_() for name, w in weights.items()}
    gradients = torch.autograd.grad(toy.objective()(leaves), list(leaves.values()))

    optimizer = toy.sgd(lr=0.1, momentum=0.0, weight_decay=0.0)
    loss = method.loss(toy.net, toy.objective())
    assert torch.equal(loss, toy.objective()(leaves)), "the forward sees exactly the masked weights"
    loss.backward()
    method.before_step(toy.net, Clock(0, 10), optimizer)
    optimizer.step()
    for (name, p), gradient in zip(toy.net.params.items(), gradients, strict=True):
        wanted = weights[name] - 0.1 * (gradient + 0.05 * ~masks[name] * weights[name])
        torch.testing.assert_close(p.detach(), wanted)
    method.after_step(toy.net, Clock(1, 10), optimizer)
    for name, p in toy.net.params.items():
        assert p.detach().abs()[toy.net.masks[name]].min() >= p.detach().abs()[~toy.net.masks[name]].max()


@pytest.mark.parametrize("distribution", [uniform, erk])
def test_sr_ste_is_at_its_budget_at_every_step(distribution):
    toy = Toy()
    before, moved = None, False
    for _ in toy.train(SRSTE(density=0.2, distribution=distribution), 20):
        assert sum(toy.net.counts.values()) == round(0.2 * 144)
        moved = moved or (before is not None and any(not torch.equal(m, toy.net.masks[n]) for n, m in before.items()))
        before = {name: mask.clone() for name, mask in toy.net.masks.items()}
    assert moved
    for name, p in toy.net.params.items():
        assert torch.equal(p.detach() != 0, toy.net.masks[name])


def test_sr_ste_trains_two_of_four():
    toy = run(Toy(widths=(8, 16, 4)), SRSTE(density=0.5, distribution=uniform, pattern=NofM(n=2, m=4)), 10)
    for mask in toy.net.masks.values():
        assert (mask.reshape(mask.shape[0], -1, 4).sum(-1) == 2).all()


def test_the_decay_steadies_the_masks():
    def changes(decay):
        toy, count, before = Toy(), 0, None
        for _ in toy.train(SRSTE(density=0.2, decay=decay), 150, finish=False):
            now = torch.cat([mask.reshape(-1) for mask in toy.net.masks.values()])
            count += 0 if before is None else int((now & ~before).sum())
            before = now
        return count

    assert changes(0.3) < changes(0.0)


def test_sr_ste_cost_and_refusals():
    assert SRSTE().passes(Toy().net, Clock(0, 10)) == SPARSE_DENSE_WEIGHT
    for wrong in ({"decay": -1.0}, {"every": 0}):
        with pytest.raises(ValueError, match="decay"):
            SRSTE(**wrong)
