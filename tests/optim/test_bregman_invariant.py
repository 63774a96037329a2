"""The invariant v - theta / delta in the sub-differential, for all optimizers and regularisers, and delta's role."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsebench.optim import AdaBreg, LinBreg, MLAdaBreg, MLLinBreg

SHAPES = {
    "l1": [(7,), (3, 4), (2, 3, 3, 3), (1, 1)],
    "rows": [(4, 3), (1, 6), (5, 1)],
    "kernels": [(3, 2, 3, 3), (4, 3, 1, 1), (1, 5, 3, 3), (4, 6)],
    "filters": [(4, 2, 3, 3), (1, 3, 3, 3), (5, 2, 1, 1), (3, 2, 5)],
}


def units(tensor, regularizer):
    """List the units of a tensor as flat rows, independently of the package."""
    if regularizer == "l1":
        return tensor.reshape(-1, 1)
    if regularizer == "kernels":
        return tensor.reshape(tensor.shape[0] * tensor.shape[1], -1)
    return tensor.reshape(tensor.shape[0], -1)


def assert_invariant(theta, dual, regularizer, lam, delta):
    tolerance = 1e-9
    for weights, v in zip(units(theta, regularizer), units(dual, regularizer), strict=True):
        limit = lam * math.sqrt(weights.numel())
        if bool((weights != 0).any()):
            wanted = weights / delta + limit * weights / weights.norm()
            assert float((v - wanted).abs().max()) < tolerance * max(1.0, 1.0 / delta)
        else:
            assert float(v.norm()) <= limit + tolerance


def sparse_parameter(shape, regularizer, generator):
    parameter = torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
    keep = torch.rand(len(units(parameter.detach(), regularizer)), generator=generator) < 0.5
    keep[0] = True
    with torch.no_grad():
        units(parameter, regularizer)[~keep] = 0.0
    return parameter


@pytest.mark.parametrize("regularizer", SHAPES)
@pytest.mark.parametrize("optimizer_class", [LinBreg, AdaBreg, MLLinBreg, MLAdaBreg])
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    lam=st.sampled_from([0.0, 0.01, 0.3, 2.0]),
    delta=st.sampled_from([0.1, 1.0, 5.0]),
    lr=st.sampled_from([0.01, 0.3]),
    factor=st.sampled_from([0.0, 0.5, 0.9]),
    weight_decay=st.sampled_from([0.0, 0.1]),
    coarse_steps=st.integers(0, 4),
)
def test_invariant_after_every_step(
    optimizer_class, regularizer, seed, lam, delta, lr, factor, weight_decay, coarse_steps
):
    generator = torch.Generator().manual_seed(seed)
    parameters = [sparse_parameter(shape, regularizer, generator) for shape in SHAPES[regularizer]]
    options = {"delta": delta, "weight_decay": weight_decay}
    multilevel = optimizer_class in (MLLinBreg, MLAdaBreg)
    options |= {"coarse_steps": coarse_steps} if multilevel else {}
    adaptive = optimizer_class in (AdaBreg, MLAdaBreg)
    options |= {"betas": (factor, 0.99)} if adaptive else {"momentum": factor}
    optimizer = optimizer_class(parameters, lr, regularizer, lam, **options)
    for step in range(9):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        if step == 5:
            optimizer.set_lambda(lam * 0.7, ("keep", "reset", "shift")[seed % 3])
        strength = lam if step < 5 else lam * 0.7
        before = optimizer.duals()
        frozen = {p: v.clone() for p, v in before.items()}
        support = {p: p.detach() != 0 for p in parameters}
        optimizer.step()
        for parameter in parameters:
            assert_invariant(parameter.detach(), optimizer.duals()[parameter], regularizer, strength, delta)
            if multilevel and optimizer.phase == "coarse":
                active = optimizer.active_masks()[parameter]
                assert not bool(((parameter != 0) & ~active).any())
                assert not bool((support[parameter] & ~active).any())
                if parameter in frozen:
                    assert torch.equal(optimizer.duals()[parameter][~active], frozen[parameter][~active])


@pytest.mark.parametrize("regularizer", ["l1", "rows"])
def test_support_depends_on_the_dual_and_delta_scales(regularizer):
    """From the same dual and the same gradients delta multiplies the weights and leaves their support alone."""
    generator = torch.Generator().manual_seed(2)
    start = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    start[:4] = 0.0
    runs = []
    for delta in (0.5, 1.0, 4.0):
        parameter = torch.nn.Parameter(start * delta)  # v_0 = theta / delta + p is then the same for all
        optimizer = LinBreg([parameter], 0.2, regularizer, 0.3, delta=delta)
        noise = torch.Generator().manual_seed(7)
        for _ in range(4):
            parameter.grad = torch.randn(6, 4, generator=noise, dtype=torch.float64)
            optimizer.step()
        runs.append((parameter.detach() / delta, optimizer.duals()[parameter]))
    for scaled, dual in runs[1:]:
        torch.testing.assert_close(dual, runs[0][1])
        torch.testing.assert_close(scaled, runs[0][0])
        assert torch.equal(scaled == 0, runs[0][0] == 0)
    assert 0 < int((runs[0][0] != 0).sum()) < 24


@pytest.mark.parametrize("optimizer_class", [LinBreg, AdaBreg, MLLinBreg])
@pytest.mark.parametrize("regularizer", ["l1", "kernels", "filters"])
def test_channels_last_equals_contiguous(optimizer_class, regularizer):
    generator = torch.Generator().manual_seed(0)
    plain = sparse_parameter((6, 4, 3, 3), regularizer, generator)
    last = torch.nn.Parameter(plain.detach().clone().to(memory_format=torch.channels_last))
    strides = last.stride()
    options = {"coarse_steps": 2} if optimizer_class is MLLinBreg else {}
    optimizers = [optimizer_class([p], 0.1, regularizer, 0.2, **options) for p in (plain, last)]
    for _ in range(6):
        plain.grad = torch.randn(plain.shape, generator=generator, dtype=torch.float64)
        last.grad = plain.grad.to(memory_format=torch.channels_last)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(plain.detach(), last.detach().contiguous(), rtol=1e-12, atol=1e-12)
    assert torch.equal(plain == 0, last == 0)
    assert last.stride() == strides == optimizers[1].duals()[last].stride()


def test_negative_zero_is_no_member_of_the_support():
    parameter = torch.nn.Parameter(torch.tensor([1.0, -0.0, 0.0]))
    optimizer = MLLinBreg([parameter], 0.1, "l1", 0.1, coarse_steps=1)
    assert optimizer.active_masks()[parameter].tolist() == [True, False, False]
    parameter.grad = torch.tensor([0.0, -50.0, 50.0])
    optimizer.step()
    assert parameter.tolist() == pytest.approx([1.0, 0.0, 0.0])
    optimizer.step()
    assert parameter.tolist() == pytest.approx([1.0, 4.9, -4.9])


def test_group_inside_the_threshold_stays_zero():
    parameter = torch.nn.Parameter(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
    optimizer = LinBreg([parameter], 1.0, "rows", 1.0)
    parameter.grad = torch.tensor([[0.9, 1.0], [0.0, 0.0]])  # norm 1.345 < sqrt(2)
    optimizer.step()
    assert parameter[0].tolist() == [0.0, 0.0]
    parameter.grad = torch.tensor([[0.1, 0.1], [0.0, 0.0]])  # together 1.487 > sqrt(2)
    optimizer.step()
    assert bool((parameter[0] != 0).all())
