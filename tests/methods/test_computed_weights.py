"""Powers, products and pruned passes: what their traces in tests/official cannot show."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call
from toy import Toy, run

from sparsebench.methods import Clock, CrAM, PILoT, Powerpropagation, SignIn, Spred
from sparsebench.methods.spred import factors
from sparsebench.sparse import SparseModel


@pytest.mark.parametrize("balance", [0.0, 0.3, 1.0])
def test_factors_have_the_product_and_the_balance(balance):
    weight = torch.tensor([-2.0, -0.5, 0.0, 1e-3, 3.0]).double()
    m, u = factors(weight, balance)
    torch.testing.assert_close(m * u, weight)
    torch.testing.assert_close(m**2 - u**2, torch.full_like(weight, balance))
    assert (m >= 0).all()


@pytest.mark.parametrize(
    "method",
    [Powerpropagation(density=0.5, alpha=3.0), Spred(density=0.5), PILoT(density=0.5)],
    ids=lambda m: type(m).__name__,
)
def test_training_starts_from_the_initial_network_and_stores_an_ordinary_one(method):
    toy = Toy()
    before, inputs = toy.weights(), toy.batches[0][0]
    steps = toy.train(method, 10)
    next(steps)
    toy = Toy()
    toy.net.learned = {name: nn.Parameter(value.double()) for name, value in method.learned(toy.net).items()}
    method.start(toy.net, toy.probe)
    for name, weight in method.view(toy.net).items():
        torch.testing.assert_close(weight.detach(), before[name])
    toy = run(Toy(), method, 10)
    wanted = functional_call(toy.module, method.view(toy.net), (inputs,))
    torch.testing.assert_close(toy.module(inputs), wanted)
    assert sum(toy.net.counts.values()) == round(0.5 * sum(p.numel() for p in toy.net.params.values()))
    for name, p in toy.net.params.items():
        assert not p.detach()[~toy.net.masks[name]].any()


def test_powers_keep_their_sign_and_have_a_gradient_of_zero_at_zero():
    net = SparseModel({"w": nn.Parameter(torch.tensor([[-0.5, 0.0, 2.0]]))})
    (weight,) = Powerpropagation(alpha=1.5, density=0.5).computed(net).values()
    weight.sum().backward()
    torch.testing.assert_close(net.params["w"].grad, 1.5 * net.params["w"].detach().abs() ** 0.5)


def test_a_penalty_on_the_factors_solves_the_lasso():
    """Least squares of one weight: soft thresholding by twice the strength over twice the curvature."""
    net = SparseModel({"w": nn.Parameter(torch.tensor([[0.7, -0.2]]).double())})
    method = Spred(density=1.0, strength=0.05)
    net.learned = {name: nn.Parameter(value.double()) for name, value in method.learned(net).items()}
    method.start(net, Toy().probe)
    target = torch.tensor([[0.7, -0.04]]).double()
    optimizer = torch.optim.SGD([*net.params.values(), *net.learned.values()], lr=0.1)
    for _ in range(4000):
        optimizer.zero_grad()
        method.loss(net, lambda weights: ((weights["w"] - target) ** 2).sum()).backward()
        optimizer.step()
    torch.testing.assert_close(method.view(net)["w"].detach(), torch.tensor([[0.65, 0.0]]).double(), atol=1e-6, rtol=0)


def test_the_control_raises_alpha_in_the_first_half_and_lowers_it_afterwards():
    toy, method, alphas = Toy(), PILoT(density=0.5, strength=1e-9, rise=2.0, every=2), []
    for _ in toy.train(method, 12, optimizer=lambda toy: toy.sgd(lr=1e-12), finish=False):
        alphas.append(float(toy.net.memory["control"]["alpha"]) / 1e-9)
    losses = [float(toy.objective(step)({}).detach()) for step in range(12)]
    means = [(losses[k] + losses[k + 1]) / 2 for k in range(0, 12, 2)]
    wanted = 1.0
    for period, mean in enumerate(means):
        assert alphas[2 * period] == pytest.approx(wanted)
        falls = period == 0 or mean <= means[period - 1]
        wanted *= 2 if falls and period < 3 else 0.5
        assert alphas[2 * period + 1] == pytest.approx(wanted)


def test_a_norm_below_the_least_lets_the_penalty_fade():
    toy, method = Toy(), PILoT(density=0.5, strength=1.0, rise=2.0, every=1, least_norm=1e9)
    steps = toy.train(method, 8, optimizer=lambda toy: toy.sgd(lr=1e-9), finish=False)
    next(steps)
    assert float(toy.net.memory["control"]["alpha"]) == 0.5


def test_a_weight_of_sign_in_crosses_zero_where_one_of_equal_factors_stays():
    """One weight drawn with the wrong sign: least squares towards 1."""
    ends = {}
    for method in (Spred(density=1.0, strength=0.0), SignIn(density=1.0)):
        net = SparseModel({"w": nn.Parameter(torch.tensor([[-0.5]]).double())})
        net.learned = {name: nn.Parameter(value.double()) for name, value in method.learned(net).items()}
        method.start(net, Toy().probe)
        optimizer = torch.optim.SGD([*net.params.values(), *net.learned.values()], lr=0.01)
        for step in range(700):
            optimizer.zero_grad()
            method.loss(net, lambda weights: ((weights["w"] - 1) ** 2).sum()).backward()
            optimizer.step()
            method.after_step(net, Clock(step + 1, 701), optimizer)
        ends[type(method).__name__] = float(method.view(net)["w"].detach())
    assert ends["SignIn"] == pytest.approx(1.0, abs=1e-6)
    assert abs(ends["Spred"]) < 1e-6


class Normed:
    """A network with batch norm and an objective over all its parameters."""

    def __init__(self):
        torch.manual_seed(0)
        self.module = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).double()
        self.net = SparseModel.of(self.module)
        self.images, self.labels = torch.randn(9, 5).double(), torch.randint(3, (9,))

    def objective(self, weights):
        return nn.functional.cross_entropy(functional_call(self.module, dict(weights), (self.images,)), self.labels)


def test_cram_takes_running_statistics_from_the_dense_network_and_moves_biases_uphill():
    normed, method = Normed(), CrAM(density=0.5, rho=0.2, sparsities=[0.5])
    plain = copy.deepcopy(normed.module)
    slopes = torch.autograd.grad(
        nn.functional.cross_entropy(plain(normed.images), normed.labels), list(plain.parameters())
    )
    method.start(normed.net, Toy().probe)
    method.loss(normed.net, normed.objective).backward()
    torch.testing.assert_close(normed.module[1].running_mean, plain[1].running_mean)
    uphill = {n: p.detach() + 0.2 * g for (n, p), g in zip(plain.named_parameters(), slopes, strict=True)}
    order = torch.cat([uphill[n].abs().reshape(-1) for n in ("0.weight", "3.weight")]).sort(descending=True).values
    least = order[round(0.5 * 48) - 1]
    masks = {n: uphill[n].abs() >= least if n in ("0.weight", "3.weight") else torch.ones(()) for n in uphill}
    leaves = {n: (w * masks[n]).requires_grad_() for n, w in uphill.items()}
    second = torch.autograd.grad(normed.objective(leaves), list(leaves.values()))
    for (name, p), one, two in zip(normed.module.named_parameters(), slopes, second, strict=True):
        torch.testing.assert_close(p.grad, one + two * masks[name], msg=name)


def test_cram_charges_the_dense_and_the_pruned_passes():
    normed, method = Normed(), CrAM(density=0.5, sparsities=[0.75])
    method.start(normed.net, Toy().probe)
    assert method.passes(normed.net, Clock(0, 4)).forward[1] == {"0.weight": 0.25, "3.weight": 0.25}
    method.loss(normed.net, normed.objective)
    shares = method.passes(normed.net, Clock(0, 4)).weight[1]
    assert shares["0.weight"] * 30 + shares["3.weight"] * 18 == pytest.approx(12)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Powerpropagation(alpha=0.5), "a power of at least 1"),
        (lambda: Powerpropagation(topk_at=0.0), r"in \(0, 1\]"),
        (lambda: Spred(strength=-1.0), "choose 0 or more"),
        (lambda: PILoT(rise=0.9), "rise >= 1"),
        (lambda: SignIn(topk_at=0.5), "leave topk_at out"),
        (lambda: SignIn(reset_every=0), "reset_every > 0"),
        (lambda: CrAM(sparsities=[]), "one sparsity or more"),
        (lambda: CrAM(sparsities=[1.0]), "one sparsity or more"),
    ],
)
def test_what_is_refused_says_what_to_write(make, words):
    with pytest.raises(ValueError, match=words):
        make()
