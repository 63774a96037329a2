"""HAM and SparseOpt beside a straight evaluation of their rules, with closures, zeros and checkpoints."""

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn

from sparsebench.optim import LinBreg, fuse, ham, sparse_opt

SGD = partial(torch.optim.SGD, momentum=0.9)


def network(seed=0):
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        for layer in (module[0], module[2]):
            layer.weight[torch.rand_like(layer.weight) < 0.5] = 0.0
    return module


def gradients(module, number):
    torch.manual_seed(number)
    images, labels = torch.randn(8, 6).double(), torch.randint(3, (8,))
    module.zero_grad()
    nn.functional.cross_entropy(module(images), labels).backward()
    for layer in (module[0], module[2]):
        layer.weight.grad[layer.weight == 0] = 0.0


def hyperbolic(w, g, rate, alpha, beta):
    """One weight after HAM's own step, in plain Python."""
    if w == 0:
        return 0.0
    return w * math.exp(min(5.0, max(-5.0, rate * (-alpha * math.copysign(1.0, w) * g - beta))))


def test_ham_limits_the_norm_of_every_tensor_and_spares_second_factors():
    weight, bias, factor = (nn.Parameter(torch.full(shape, 3.0)) for shape in ((2, 2), (4,), (2, 2)))
    groups = [{"params": [weight, bias]}, {"params": [factor], "hyperbolic": True}]
    optimizer = ham(groups, torch.optim.SGD, lr=0.1, alpha=1.0, beta=0.0, max_norm=5.0)
    for parameter in (weight, bias, factor):
        parameter.grad = torch.zeros_like(parameter)
    factor.grad.fill_(1.0)
    optimizer.step()
    assert weight.norm().item() == pytest.approx(5.0)
    assert bias.norm().item() == pytest.approx(5.0)
    # 3 - 0.1 and no hyperbolic step, shortened
    torch.testing.assert_close(factor.detach(), torch.full((2, 2), 2.9) * (5.0 / 5.8))


@pytest.mark.parametrize("build", [SGD, partial(torch.optim.AdamW, betas=(0.9, 0.99))])
@pytest.mark.parametrize("fused", [False, True])
def test_ham_is_a_step_and_a_hyperbolic_step(build, fused):
    ours, theirs = network(), network()
    one = ham(ours.parameters(), build, lr=0.05, weight_decay=0.01, alpha=20.0, beta=0.5)
    two = build(theirs.parameters(), lr=0.05, weight_decay=0.01)
    if fused:
        one, two = fuse(one), fuse(two)
    for number in range(6):
        gradients(ours, number)
        one.step()
        gradients(theirs, number)
        two.step()
        with torch.no_grad():
            for layer in (theirs[0], theirs[2]):
                pairs = zip(layer.weight.reshape(-1).tolist(), layer.weight.grad.reshape(-1).tolist(), strict=True)
                moved = [hyperbolic(w, g, 0.05, 20.0, 0.5) for w, g in pairs]
                layer.weight.copy_(torch.tensor(moved, dtype=torch.float64).reshape(layer.weight.shape))
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_ham_keeps_zeros_and_clamps():
    module = network()
    zeros = module[0].weight == 0
    optimizer = ham(module.parameters(), SGD, lr=1.0, alpha=1e9, beta=0.0)
    gradients(module, 0)
    stepped, plain = copy.deepcopy(module), SGD
    other = plain(stepped.parameters(), lr=1.0)
    gradients(stepped, 0)
    other.step()
    optimizer.step()
    ratio = (module[0].weight / stepped[0].weight)[~zeros].detach()
    assert not module[0].weight[zeros].any()
    assert set(ratio.log().round(decimals=6).tolist()) <= {-5.0, 5.0, 0.0}
    torch.testing.assert_close(module[0].bias, stepped[0].bias)


def test_ham_leaves_parameters_without_a_gradient_alone():
    module = network()
    before = copy.deepcopy(module.state_dict())
    ham(module.parameters(), SGD, lr=0.1, beta=1.0).step()
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


@pytest.mark.parametrize("closure", [False, True])
def test_sparse_opt_levels_gradients_by_fan_in(closure):
    ours, theirs = network(), network()
    one, two = sparse_opt(ours.parameters(), SGD, lr=0.1), SGD(theirs.parameters(), lr=0.1)
    for number in range(4):
        if closure:
            one.step(lambda number=number: gradients(ours, number))
        else:
            gradients(ours, number)
            one.step()
        gradients(theirs, number)
        for layer in (theirs[0], theirs[2]):
            rows = [sum(w != 0 for w in row) / len(row) for row in layer.weight.tolist()]
            mean = sum(rows) / len(rows)
            for row, share in zip(layer.weight.grad, rows, strict=True):
                row.mul_(math.sqrt(share) / math.sqrt(mean))
        two.step()
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_sparse_opt_counts_a_grown_weight_and_changes_nothing_in_a_dense_layer():
    weight = nn.Parameter(torch.tensor([[0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0]]))
    weight.grad = torch.tensor([[1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0]])  # the first has just grown
    sparse_opt([weight], partial(torch.optim.SGD), lr=1.0).step()
    torch.testing.assert_close(weight.grad[0, 0], torch.tensor(1.0))
    dense = nn.Parameter(torch.randn(3, 4))
    dense.grad = slope = torch.randn(3, 4)
    kept = slope.clone()
    sparse_opt([dense], partial(torch.optim.SGD), lr=1.0).step()
    torch.testing.assert_close(slope, kept, rtol=0, atol=0)


def test_both_wrappers_are_one_optimizer_that_resumes():
    def both(module):
        return ham(module.parameters(), partial(sparse_opt, base=SGD), lr=0.05, weight_decay=0.01)

    module = network()
    optimizer = both(module)
    assert type(optimizer) is torch.optim.SGD
    for number in range(3):
        gradients(module, number)
        optimizer.step()
    again = network(1)
    again.load_state_dict(module.state_dict())
    other = both(again)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for net, opt in ((module, optimizer), (again, other)):
        for number in range(3, 6):
            gradients(net, number)
            opt.step()
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("wrapper", [ham, sparse_opt])
def test_a_dual_base_is_refused(wrapper):
    with pytest.raises(ValueError, match="choose a base such as sgd"):
        wrapper(network().parameters(), partial(LinBreg, lam=0.1), lr=0.1)


def test_negative_strengths_are_refused():
    with pytest.raises(ValueError, match="both must be 0 or more"):
        ham(network().parameters(), SGD, lr=0.1, alpha=-1)
