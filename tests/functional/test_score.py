"""Scores: finite differences, double backward, conservation."""

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call

from sparsebench.functional import score


def network(seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    params = {name: p for name, p in net.named_parameters() if name.endswith("weight")}
    batches = [(torch.randn(6, 4).double(), torch.randint(3, (6,))) for _ in range(3)]

    def objective(x, y, temperature=1.0):
        return lambda weights: nn.functional.cross_entropy(functional_call(net, weights, (x,)) / temperature, y)

    return net, params, [objective(*batch) for batch in batches]


def mean(objectives):
    return lambda weights: torch.stack([objective(weights) for objective in objectives]).mean()


def test_magnitude():
    _, params, _ = network()
    for name, value in score.magnitude(params).items():
        assert torch.equal(value, params[name].detach().abs())
        assert not value.requires_grad


def test_snip_is_the_finite_difference_of_a_multiplicative_mask():
    _, params, (objective, *_) = network()
    weights = {name: p.detach() for name, p in params.items()}
    scores = score.snip(objective, params)
    step = 1e-6
    for name, value in weights.items():
        for index in range(value.numel()):
            losses = []
            for sign in (1, -1):
                mask = torch.ones_like(value)
                mask.view(-1)[index] += sign * step
                losses.append(float(objective({**weights, name: value * mask}).detach()))
            slope = (losses[0] - losses[1]) / (2 * step)
            assert float(scores[name].view(-1)[index]) == pytest.approx(abs(slope), abs=1e-8)


def test_several_batches_average_the_gradient_before_the_modulus():
    _, params, objectives = network()
    for function in (score.snip, score.gradient):
        several, single = function(objectives, params), function(mean(objectives), params)
        parts = [function(objective, params) for objective in objectives]
        for name in params:
            torch.testing.assert_close(several[name], single[name])
            assert (several[name] <= sum(part[name] for part in parts) / 3 + 1e-12).all()
            assert not torch.allclose(several[name], sum(part[name] for part in parts) / 3)


def test_gradient_is_that_of_backward():
    net, params, (objective, *_) = network()
    scores = score.gradient(objective, params)
    objective(dict(net.named_parameters())).backward()
    for name, p in params.items():
        torch.testing.assert_close(scores[name], p.grad.abs())


def test_grasp_is_weight_times_hessian_times_gradient():
    _, params, (objective, *_) = network()
    names, flat = list(params), torch.cat([p.detach().reshape(-1) for p in params.values()])

    def loss(vector):
        parts = vector.split([params[name].numel() for name in names])
        return objective({name: part.reshape(params[name].shape) for name, part in zip(names, parts, strict=True)})

    slope = torch.autograd.functional.jacobian(loss, flat)
    wanted = flat * (torch.autograd.functional.hessian(loss, flat) @ slope)
    scores = score.grasp(objective, params)
    torch.testing.assert_close(torch.cat([scores[name].reshape(-1) for name in names]), wanted)


def test_grasp_chunks_equal_the_whole():
    _, params, objectives = network()
    whole, chunks = score.grasp(mean(objectives), params), score.grasp(objectives, params)
    for name in params:
        torch.testing.assert_close(chunks[name], whole[name], rtol=1e-10, atol=1e-14)


def test_grasp_predicts_the_change_of_the_gradient_norm():
    """Shrinking one weight by a factor 1 - t changes |g|^2 by -2 t times its score, to first order."""
    _, params, (objective, *_) = network()
    weights = {name: p.detach() for name, p in params.items()}

    def norm(values):
        return sum(float((g**2).sum()) for g in score.gradient(objective, values).values())

    scores, t = score.grasp(objective, params), 1e-5
    for name, index in (("0.weight", 3), ("2.weight", 7)):
        changed = []
        for sign in (1, -1):
            value = weights[name].clone()
            value.view(-1)[index] *= 1 - sign * t
            changed.append(norm({**weights, name: value}))
        assert (changed[0] - changed[1]) / (2 * t) == pytest.approx(-2 * float(scores[name].view(-1)[index]), rel=1e-5)


def test_grasp_of_a_linear_objective_is_zero():
    params = {"w": torch.randn(3)}
    assert torch.equal(score.grasp(lambda weights: weights["w"].sum(), params)["w"], torch.zeros(3))


def test_synflow_conserves_flow_through_a_linear_chain():
    torch.manual_seed(1)
    net = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in ((5, 7), (7, 4), (4, 6)))).double()
    params = dict(net.named_parameters())
    scores = score.synflow(lambda weights: functional_call(net, weights, (torch.ones(1, 5).double(),)), params)
    total = torch.ones(1, 5).double()
    for p in params.values():
        total = total @ p.detach().abs().T
    for value in scores.values():
        assert float(value.sum()) == pytest.approx(float(total.sum()), rel=1e-12)
    # the flow into each hidden unit is the flow out of it
    torch.testing.assert_close(scores["0.weight"].sum(1), scores["1.weight"].sum(0))


def test_synflow_masked_weights_score_zero_and_overflow_is_told():
    params = {"w": torch.tensor([2.0, 0.0, -3.0])}
    assert score.synflow(lambda weights: weights["w"].prod() + weights["w"].sum(), params)["w"].tolist() == [
        2.0,
        0.0,
        3.0,
    ]
    with pytest.raises(ValueError, match="float64"):
        score.synflow(lambda weights: weights["w"] * 3e38, params)


@pytest.mark.parametrize("function", [score.snip, score.gradient, score.grasp, score.synflow])
def test_parameters_are_left_alone(function):
    net, params, (objective, *_) = network()
    before = {name: p.detach().clone() for name, p in params.items()}
    marker = torch.zeros_like(net[0].weight)
    net[0].weight.grad = marker
    with torch.no_grad():
        scores = function(objective, params)
    assert net[0].weight.grad is marker
    assert net[2].weight.grad is net[0].bias.grad is None
    for name, p in params.items():
        assert torch.equal(p, before[name])
        assert p.requires_grad
        assert not scores[name].requires_grad
        assert scores[name].shape == p.shape


def test_unused_weights_score_zero():
    params = {"used": torch.tensor([2.0]), "idle": torch.tensor([5.0])}
    for function in (score.snip, score.gradient, score.grasp, score.synflow):
        values = function(lambda weights: (weights["used"] ** 2).sum(), params)
        assert values["idle"].tolist() == [0.0]
        assert values["used"].tolist() != [0.0]


def test_channels_last_strides_survive():
    weight = torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last)
    x = torch.randn(1, 3, 5, 5)
    for function in (score.snip, score.gradient, score.grasp, score.synflow):
        values = function(lambda weights: (nn.functional.conv2d(x, weights["w"]) ** 2).sum(), {"w": weight})
        assert values["w"].stride() == weight.stride()


def test_empty_input():
    with pytest.raises(ValueError, match="no objective"):
        score.snip([], {"w": torch.ones(1)})
    assert score.magnitude({}) == {}
    for function in (score.snip, score.grasp, score.synflow):
        with pytest.raises(ValueError, match="no parameters"):
            function(lambda weights: torch.zeros(()), {})


def test_acquisition():
    gradient, seen = torch.tensor([-0.5, 0.25, 0.0]), torch.tensor([0, 1, 3], dtype=torch.int16)
    got = score.acquisition(gradient, seen, c=0.1, eps=1.0, time=math.exp(2))
    assert got.tolist() == pytest.approx([0.7, 0.35, 0.05])
    assert torch.equal(score.acquisition(gradient, seen, c=0.0, eps=1.0, time=50), gradient.abs())
    half = score.acquisition(gradient.half(), seen, c=0.1, eps=1.0, time=9)
    assert half.dtype == torch.float32
    later = score.acquisition(gradient, seen, c=0.1, eps=1.0, time=1000)
    assert (later > got).all()
    for bad in ({"c": -1.0}, {"eps": 0.0}, {"time": 0.5}):
        with pytest.raises(ValueError, match="must be"):
            score.acquisition(gradient, seen, **{"c": 0.1, "eps": 1.0, "time": 2, **bad})
