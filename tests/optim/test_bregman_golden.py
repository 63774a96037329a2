"""Golden vectors, hand-computed steps and the agreement with SGD and Adam where the regulariser is off."""

import copy
import math

import pytest
import torch

from sparsebench.functional.prox import group_soft_threshold, soft_threshold
from sparsebench.optim import AdaBreg, LinBreg, MLAdaBreg, MLLinBreg, ProxSGD

START = (0.5, -0.3, 0.0, 0.0, 0.02)
GRADIENTS = ((0.2, -0.4, 1.0, -0.6, 0.3), (-0.1, 0.5, 1.5, -0.9, 0.4), (0.3, 0.3, -0.2, -1.0, 0.0))


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def run(optimizer_class, start=START, gradients=GRADIENTS, **settings):
    parameter = torch.nn.Parameter(double(start))
    optimizer = optimizer_class([parameter], **settings)
    thetas, duals = [], []
    for gradient in gradients:
        parameter.grad = double(gradient)
        optimizer.step()
        thetas.append(parameter.detach().clone())
        duals.append(optimizer.state[parameter].get("dual", double(0.0)).clone())
    return thetas, duals


def assert_rows(actual, expected):
    for row, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(row, double(wanted), rtol=0, atol=1e-9)


def test_linbreg_l1_vectors():
    thetas, duals = run(LinBreg, lr=0.1, lam=0.1, delta=1.0)
    assert_rows(thetas, [(0.48, -0.26, 0, 0, 0), (0.49, -0.31, -0.15, 0.05, 0), (0.46, -0.34, -0.13, 0.15, 0)])
    assert_rows(duals[-1:], [(0.56, -0.44, -0.23, 0.25, 0.05)])


def test_linbreg_momentum_vectors():
    thetas, duals = run(LinBreg, lr=0.1, lam=0.1, momentum=0.9)
    expected = [
        (0.498, -0.296, 0, 0, 0.017),
        (0.4972, -0.2974, 0, 0, 0.0103),
        (0.49348, -0.30166, 0, 0, 0.00427),
    ]
    assert_rows(thetas, expected)
    assert_rows(duals[-1:], [(0.59348, -0.40166, -0.0536, 0.04336, 0.10427)])


def test_proxsgd_l1_vectors():
    thetas, _ = run(ProxSGD, lr=0.1, lam=0.1)
    expected = [(0.47, -0.25, -0.09, 0.05, 0), (0.47, -0.29, -0.23, 0.13, -0.03), (0.43, -0.31, -0.20, 0.22, -0.02)]
    assert_rows(thetas, expected)


def test_multilevel_vectors():
    thetas, duals = run(MLLinBreg, lr=0.1, lam=0.1, coarse_steps=1)
    assert_rows(thetas, [(0.48, -0.26, 0, 0, 0), (0.49, -0.31, -0.05, 0, 0), (0.46, -0.34, -0.03, 0, 0)])
    expected = [(0.58, -0.36, 0, 0, 0.09), (0.59, -0.41, -0.15, 0.09, 0.05), (0.56, -0.44, -0.13, 0.09, 0.05)]
    assert_rows(duals, expected)


@pytest.mark.parametrize("delta", [1.0, 0.25, 3.0])
def test_adabreg_equals_moments_by_hand(delta):
    lr, lam, first, second, eps = 0.05, 0.1, 0.8, 0.95, 1e-6
    thetas, duals = run(AdaBreg, lr=lr, lam=lam, delta=delta, betas=(first, second), eps=eps)
    for i, theta in enumerate(START):
        v = theta / delta + lam * (theta > 0) - lam * (theta < 0)
        mean = square = 0.0
        for t, gradient in enumerate(GRADIENTS, start=1):
            mean = first * mean + (1 - first) * gradient[i]
            square = second * square + (1 - second) * gradient[i] ** 2
            v -= lr * (mean / (1 - first**t)) / (math.sqrt(square / (1 - second**t)) + eps)
            assert float(duals[t - 1][i]) == pytest.approx(v, abs=1e-12)
            wanted = delta * math.copysign(max(abs(v) - lam, 0.0), v)
            assert float(thetas[t - 1][i]) == pytest.approx(wanted, abs=1e-12)


def minimise(function, start):
    """Minimise a convex function of one number by trisection."""
    low, high = -start, start
    for _ in range(200):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, right) if function(left) < function(right) else (left, high)
    return (low + high) / 2


@pytest.mark.parametrize("delta", [0.5, 1.0, 2.0])
def test_weights_minimise_the_elastic_problem_entrywise(delta):
    lam = 0.1
    thetas, duals = run(LinBreg, lr=0.1, lam=lam, delta=delta)
    for theta, v in zip(thetas[-1].tolist(), duals[-1].tolist(), strict=True):
        best = minimise(lambda w, v=v: lam * abs(w) + w * w / (2 * delta) - v * w, 10.0)
        assert theta == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize(
    ("regularizer", "shape", "members"),
    [
        ("rows", (4, 3), lambda w: list(w)),
        ("kernels", (3, 2, 2, 2), lambda w: [w[o, i] for o in range(3) for i in range(2)]),
        ("filters", (3, 2, 2, 2), lambda w: list(w)),
        ("rows", (3, 2, 2, 2), lambda w: list(w)),
    ],
)
@pytest.mark.parametrize("delta", [0.5, 1.0, 2.0])
def test_group_weights_minimise_the_elastic_problem(regularizer, shape, members, delta):
    """Along its direction every group minimises lambda sqrt(n) r + r^2 / (2 delta) - |v| r."""
    generator = torch.Generator().manual_seed(3)
    lam = 0.3
    parameter = torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
    with torch.no_grad():
        members(parameter)[0].zero_()
    optimizer = LinBreg([parameter], 0.2, regularizer, lam, delta=delta)
    for _ in range(5):
        parameter.grad = torch.randn(shape, generator=generator, dtype=torch.float64)
        optimizer.step()
    dual = optimizer.duals()[parameter]
    for weights, v in zip(members(parameter.detach()), members(dual), strict=True):
        weight, length = lam * math.sqrt(v.numel()), float(v.norm())
        radius = minimise(lambda r, w=weight, n=length: w * abs(r) + r * r / (2 * delta) - n * r, 50.0)
        torch.testing.assert_close(weights, v * (radius / length), rtol=0, atol=1e-5)


def test_initial_dual_of_groups_is_weight_plus_subgradient():
    weight = double([[3.0, 4.0], [0.0, 0.0]])
    parameter = torch.nn.Parameter(weight.clone())
    optimizer = LinBreg([parameter], 0.1, "rows", 0.5, delta=2.0)
    parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    # theta / delta + lambda sqrt(2) row / |row|; |row| = 5
    scale = 0.5 * math.sqrt(2) / 5
    expected = double([[1.5 + 3 * scale, 2.0 + 4 * scale], [0.0, 0.0]])
    torch.testing.assert_close(optimizer.duals()[parameter], expected)
    torch.testing.assert_close(parameter.detach(), weight)


def random_steps(parameters, optimizers, steps=40):
    """Drive copies of the same parameters by gradients that depend on the weights."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        noise = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters[0]]
        for copies, optimizer in zip(parameters, optimizers, strict=True):
            for parameter, shift in zip(copies, noise, strict=True):
                parameter.grad = parameter.detach() * 0.3 + shift
            optimizer.step()


def dense_copies(count):
    generator = torch.Generator().manual_seed(1)
    first = [torch.randn(s, generator=generator, dtype=torch.float64) for s in ((5, 3), (4, 2, 3, 3), (7,))]
    return [[torch.nn.Parameter(t.clone()) for t in first] for _ in range(count)]


@pytest.mark.parametrize("off", [{"regularizer": None}, {"regularizer": "l1", "lam": 0.0}])
@pytest.mark.parametrize("delta", [1.0, 0.5])
def test_without_regulariser_linbreg_is_sgd(off, delta):
    mine, theirs = copies = dense_copies(2)
    optimizers = [LinBreg(mine, 0.1, delta=delta, weight_decay=0.02, **off)]
    optimizers.append(torch.optim.SGD(theirs, lr=0.1 * delta, weight_decay=0.02))
    random_steps(copies, optimizers)
    for a, b in zip(mine, theirs, strict=True):
        assert torch.equal(a, b) if delta == 1.0 else torch.allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("off", [{"regularizer": None}, {"regularizer": "l1", "lam": 0.0}])
def test_without_regulariser_adabreg_is_adam(off):
    mine, theirs = copies = dense_copies(2)
    random_steps(copies, [AdaBreg(mine, 0.02, delta=0.5, **off), torch.optim.Adam(theirs, lr=0.01)])
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_without_regulariser_momentum_is_an_average():
    thetas, _ = run(LinBreg, regularizer=None, lr=0.1, momentum=0.9, delta=2.0)
    theta, average = double(START), torch.zeros(5, dtype=torch.float64)
    for gradient, actual in zip(GRADIENTS, thetas, strict=True):
        average = 0.9 * average + 0.1 * double(gradient)
        theta = theta - 2.0 * 0.1 * average
        torch.testing.assert_close(actual, theta, rtol=0, atol=1e-12)


@pytest.mark.parametrize("coarse_steps", [0, 1, 5, 99])
def test_without_regulariser_multilevel_from_dense_is_sgd(coarse_steps):
    mine, theirs = copies = dense_copies(2)
    optimizer = MLLinBreg(mine, 0.1, "l1", 0.0, coarse_steps=coarse_steps)
    random_steps(copies, [optimizer, torch.optim.SGD(theirs, lr=0.1)])
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("coarse_steps", [0, 3])
def test_without_regulariser_multilevel_adabreg_from_dense_is_adam(coarse_steps):
    mine, theirs = copies = dense_copies(2)
    optimizer = MLAdaBreg(mine, 0.01, "l1", 0.0, coarse_steps=coarse_steps)
    random_steps(copies, [optimizer, torch.optim.Adam(theirs, lr=0.01)])
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("regularizer", [None, "l1", "rows", "kernels", "filters"])
@pytest.mark.parametrize("delta", [1.0, 0.7])
def test_listwise_step_equals_one_tensor_at_a_time(regularizer, delta):
    """The slow reference: the formulas of the paper, tensor by tensor, on the proximal maps of ``functional``."""
    shapes = [(6, 5), (3, 4)] if regularizer == "rows" else [(4, 3, 3, 3), (6, 4, 1, 1)]
    generator = torch.Generator().manual_seed(5)
    lr, lam, momentum, decay = 0.1, 0.2, 0.6, 0.01
    parameters = [torch.nn.Parameter(torch.randn(s, generator=generator)) for s in shapes]
    for parameter in parameters:
        parameter.data[0] = 0.0
    optimizer = LinBreg(parameters, lr, regularizer, lam, delta=delta, momentum=momentum, weight_decay=decay)
    thetas, duals, buffers = [p.detach().clone() for p in parameters], [None, None], [0.0, 0.0]
    for _ in range(6):
        gradients = [torch.randn(s, generator=generator) for s in shapes]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        for i, gradient in enumerate(gradients):
            if duals[i] is None:
                duals[i] = copy.deepcopy(thetas[i]) / delta
                for row in duals[i].flatten(0, 1) if regularizer == "kernels" else duals[i]:
                    if regularizer == "l1":
                        row += lam * row.sign()
                    elif regularizer is not None and row.norm() > 0:
                        row += lam * math.sqrt(row.numel()) * row / row.norm()
            buffers[i] = momentum * buffers[i] + (1 - momentum) * lr * (gradient + decay * thetas[i])
            duals[i] = duals[i] - buffers[i]
            if regularizer == "l1":
                thetas[i] = delta * soft_threshold(duals[i], lam)
            elif regularizer is None:
                thetas[i] = delta * duals[i]
            else:
                thetas[i] = delta * group_soft_threshold(duals[i], lam, groups=regularizer)
            torch.testing.assert_close(parameters[i].detach(), thetas[i])
            assert torch.equal(parameters[i] == 0, thetas[i] == 0)


def test_sparse_recovery_is_exact_where_linbreg_keeps_more():
    """Least squares, 200 unknowns, 10 of them non-zero: at equal lambda the multilevel run is sparser."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(100, 200, generator=generator, dtype=torch.float64) / 10
    truth = torch.zeros(200, dtype=torch.float64)
    places = torch.randperm(200, generator=generator)
    signs = torch.randn(10, generator=generator, dtype=torch.float64).sign()
    truth[places[:10]] = signs * (1 + torch.rand(10, generator=generator, dtype=torch.float64))
    start = torch.zeros_like(truth)
    start[places[8:12]] = 0.1  # two true and two false entries

    def solve(coarse_steps):
        theta = torch.nn.Parameter(start.clone())
        optimizer = MLLinBreg([theta], 0.2, "l1", 1.0, coarse_steps=coarse_steps)
        for _ in range(3000):
            theta.grad = matrix.T @ (matrix @ theta.detach() - matrix @ truth)
            optimizer.step()
        return theta.detach()

    recovered, plain = solve(99), solve(0)
    assert torch.equal(recovered != 0, truth != 0)
    torch.testing.assert_close(recovered, truth, rtol=0, atol=1e-10)
    assert int((plain != 0).sum()) > 10
