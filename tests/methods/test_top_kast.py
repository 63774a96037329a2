"""Top-KAST: the two sets, what moves and what does not, the penalty, the cost."""

import pytest
import torch
from toy import Toy, run

from sparsebench.functional.counts import global_budget
from sparsebench.functional.distribution import erk, uniform
from sparsebench.methods import Clock, TopKAST


@pytest.mark.parametrize("distribution", [uniform, erk, global_budget])
@pytest.mark.parametrize("optimizer", [Toy.sgd, lambda toy: torch.optim.AdamW(toy.module.parameters(), 0.01)])
def test_the_sets_hold_at_every_step(distribution, optimizer):
    toy = Toy()
    outside = {}
    for _ in toy.train(TopKAST(density=0.2, distribution=distribution, every=3), 12, optimizer=optimizer):
        assert sum(toy.net.counts.values()) == round(0.2 * 144)
        for name, p in toy.net.params.items():
            inner, outer = toy.net.masks[name], toy.net.memory["backward"][name]
            assert not (inner & ~outer).any(), "A lies in B"
            if name in outside:
                still, values = outside[name]
                assert torch.equal(p.detach()[still], values), "momentum and decay do not reach beyond B"
            outside[name] = (~outer, p.detach()[~outer].clone())
    sizes = sum(int(mask.sum()) for mask in toy.net.memory["backward"].values())
    assert sizes == pytest.approx(0.4 * 144, abs=2)
    assert "before" not in toy.net.memory
    for name, p in toy.net.params.items():
        assert torch.equal(p.detach() != 0, toy.net.masks[name]), "what is stored at last is A"


def test_the_sets_follow_the_weights():
    toy = Toy()
    first = None
    for _ in toy.train(TopKAST(density=0.2), 30, finish=False):
        first = first or {name: mask.clone() for name, mask in toy.net.masks.items()}
    assert any((toy.net.masks[name] & ~mask).any() for name, mask in first.items())
    for name, p in toy.net.params.items():
        magnitudes = p.detach().abs()
        inner, outer = toy.net.masks[name], toy.net.memory["backward"][name]
        assert magnitudes[inner].min() >= magnitudes[~inner].max()
        assert magnitudes[outer].min() >= magnitudes[~outer].max()


def test_the_gradient_is_that_of_the_sparse_network_and_goes_to_b():
    toy = Toy()
    method = TopKAST(density=0.2, backward_density=0.5)
    method.start(toy.net, toy.probe)
    shown = {name: w.detach() for name, w in method.view(toy.net).items()}
    for name, p in toy.net.params.items():
        assert torch.equal(shown[name], p.detach() * toy.net.masks[name])
    leaves = {name: w.clone().requires_grad_() for name, w in shown.items()}
    wanted = torch.autograd.grad(toy.objective()(leaves), list(leaves.values()))
    method.loss(toy.net, toy.objective()).backward()
    for (name, p), gradient in zip(toy.net.params.items(), wanted, strict=True):
        outer = toy.net.memory["backward"][name]
        torch.testing.assert_close(p.grad, gradient * outer)
        assert p.grad[outer & ~toy.net.masks[name]].any()


def test_the_penalty_is_its_definition():
    toy = Toy()
    method = TopKAST(density=0.25, backward_density=0.5, penalty=0.3)
    method.start(toy.net, toy.probe)
    total = 0.0
    for name, p in toy.net.params.items():
        inner, outer = toy.net.masks[name], toy.net.memory["backward"][name]
        total = total + 0.3 / 2 * ((p[inner] ** 2).sum() + 1 / 0.25 * (p[outer & ~inner] ** 2).sum())
    wanted = torch.autograd.grad(total, list(toy.net.params.values()))
    for p in toy.net.params.values():
        p.grad = torch.zeros_like(p)
    method.before_step(toy.net, Clock(0, 10), toy.sgd())
    for p, gradient in zip(toy.net.params.values(), wanted, strict=True):
        torch.testing.assert_close(p.grad, gradient)


def test_passes_state_both_densities():
    toy = Toy()
    method = TopKAST(density=0.2, backward_density=0.5, distribution=uniform)
    method.start(toy.net, toy.probe)
    passes = method.passes(toy.net, Clock(0, 10))
    assert passes.forward == passes.input == ("active",)
    (shares,) = passes.weight
    assert all(shares[name] == pytest.approx(0.5, abs=1 / p.numel()) for name, p in toy.net.params.items())


def test_the_backward_density_is_twice_the_forward_one_by_default():
    assert TopKAST(density=0.2).outer_density == 0.4
    assert TopKAST(density=0.7).outer_density == 1.0
    run(Toy(), TopKAST(density=1.0), 3)


@pytest.mark.parametrize(
    "wrong", [{"backward_density": 0.05}, {"backward_density": 1.5}, {"penalty": -1.0}, {"every": 0}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"backward_density|penalty"):
        TopKAST(density=0.1, **wrong)
