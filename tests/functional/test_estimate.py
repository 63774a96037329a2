"""Estimators by enumeration of all masks."""

import itertools

import pytest
import torch

from sparsebench.functional.estimate import bernoulli, policy_gradient, straight_through
from sparsebench.functional.random import generator

S = torch.tensor([0.2, 0.55, 0.9, 0.4], dtype=torch.float64)
MASKS = [torch.tensor(bits, dtype=torch.float64) for bits in itertools.product((0, 1), repeat=4)]


def loss(mask):
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    return (mask @ weights - 1.3) ** 2 + mask[0] * mask[2] + 5.0


def chance(mask, s=S):
    return torch.where(mask == 1, s, 1 - s).prod()


def exact_gradient():
    s = S.clone().requires_grad_()
    expected = torch.stack([chance(mask, s) * loss(mask) for mask in MASKS]).sum()
    return torch.autograd.grad(expected, s)[0]


def moments(form, exponent):
    """Mean and total variance of the estimate over all pairs of masks."""
    mean, square = torch.zeros_like(S), torch.zeros_like(S)
    for one, two in itertools.product(MASKS, MASKS):
        weight = chance(one) * chance(two)
        value = policy_gradient(S, one, two, loss(one), loss(two), form, exponent)
        mean, square = mean + weight * value, square + weight * value**2
    return mean, float((square - mean**2).sum())


@pytest.mark.parametrize("form", ["two_sided", "one_sided", "plain"])
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_unbiased_up_to_the_preconditioner(form, exponent):
    mean, _ = moments(form, exponent)
    torch.testing.assert_close(mean, exact_gradient() * (S * (1 - S)) ** exponent, atol=1e-12, rtol=0)


@pytest.mark.parametrize("exponent", [0.0, 0.5])
def test_variances_are_ordered(exponent):
    variances = [moments(form, exponent)[1] for form in ("two_sided", "one_sided", "plain")]
    assert variances == sorted(variances)
    assert variances[0] < 0.8 * variances[1]


def test_zero_where_the_masks_agree_and_free_of_constants():
    one, two = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    value = policy_gradient(S, one, two, 1.25, 0.5)
    assert value[[0, 3]].tolist() == [0.0, 0.0]
    assert value.tolist() == pytest.approx([0, 0.375 / 0.2475**0.5, -0.375 / 0.09**0.5, 0])
    for form in ("two_sided", "one_sided"):
        shifted = policy_gradient(S, one, two, 9.25, 8.5, form)
        assert torch.equal(policy_gradient(S, one, two, 1.25, 0.5, form), shifted)


def test_finite_at_the_boundary():
    s = torch.tensor([0.0, 1e-12, 1 - 1e-7, 1.0])
    one, two = torch.tensor([False, True, True, True]), torch.tensor([False, False, False, True])
    for form, exponent in itertools.product(("two_sided", "one_sided", "plain"), (0.0, 0.5, 1.0)):
        value = policy_gradient(s, one, two, torch.tensor(2.0), torch.tensor(1.0), form, exponent)
        assert value.isfinite().all()
        assert value[[0, 3]].tolist() == [0.0, 0.0]
        assert value.abs().max() <= 2e6
        assert value.dtype == s.dtype


def test_no_graph_is_kept():
    scores = torch.full((3,), 0.5, requires_grad=True)
    value = policy_gradient(scores, torch.ones(3), torch.zeros(3), scores.sum(), scores.prod())
    assert not value.requires_grad


def test_policy_gradient_errors():
    with pytest.raises(ValueError, match="one of two_sided, one_sided, plain"):
        policy_gradient(S, S, S, 1.0, 1.0, form="both")
    for bad in ({"exponent": 1.5}, {"exponent": -0.1}, {"eps": 0.0}):
        with pytest.raises(ValueError, match="must be"):
            policy_gradient(S, S, S, 1.0, 1.0, **bad)


def test_straight_through():
    soft = torch.tensor([0.3, 0.7], requires_grad=True)
    hard = torch.tensor([0.1, 1.0])
    out = straight_through(hard, soft)
    assert torch.equal(out.detach(), hard)
    (out * torch.tensor([2.0, 5.0])).sum().backward()
    assert soft.grad.tolist() == [2.0, 5.0]


def test_bernoulli():
    s = torch.tensor([0.0, 0.25, 1.0]).repeat(20_000, 1)
    draw = bernoulli(s, generator(0, "m"))
    assert draw.dtype == torch.bool
    assert not draw[:, 0].any()
    assert draw[:, 2].all()
    assert float(draw[:, 1].double().mean()) == pytest.approx(0.25, abs=4 * (0.1875 / 20_000) ** 0.5)
    assert torch.equal(draw, bernoulli(s, generator(0, "m")))


def test_bernoulli_does_not_depend_on_the_memory_format():
    s = torch.rand(4, 3, 2, 2, generator=generator(1))
    last = s.to(memory_format=torch.channels_last)
    assert torch.equal(bernoulli(s, generator(2)), bernoulli(last, generator(2)))
