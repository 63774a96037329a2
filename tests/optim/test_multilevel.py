"""Phases, frozen entries, criteria and FLOPs of the multilevel optimizers."""

import pytest
import torch

from sparsebench.optim import AdaBreg, LinBreg, MLAdaBreg, MLLinBreg


def problem(seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(4, 3, 3, 3, generator=generator, dtype=dtype)
    weight[torch.rand(weight.shape, generator=generator) < 0.6] = 0.0
    bias = torch.zeros(4, dtype=dtype)
    return torch.nn.Parameter(weight), torch.nn.Parameter(bias)


def grouped(weight, bias, regularizer="l1"):
    return [{"params": [weight], "regularizer": regularizer}, {"params": [bias], "regularizer": None}]


def draw(parameters, step):
    generator = torch.Generator().manual_seed(step)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def phases(optimizer, parameters, steps):
    seen = []
    for step in range(steps):
        draw(parameters, step)
        announced = optimizer.next_phase
        optimizer.step()
        assert optimizer.phase == announced
        seen.append(announced[0])
    return "".join(seen)


@pytest.mark.parametrize(
    ("coarse_steps", "start_with", "expected"),
    [
        (2, "coarse", "ccfccfccf"),
        (2, "fine", "fccfccfcc"),
        (0, "coarse", "fffffffff"),
        (0, "fine", "fffffffff"),
        (1, "fine", "fcfcfcfcf"),
    ],
)
@pytest.mark.parametrize("optimizer_class", [MLLinBreg, MLAdaBreg])
def test_order_of_phases(optimizer_class, coarse_steps, start_with, expected):
    weight, bias = problem()
    options = {"coarse_steps": coarse_steps, "start_with": start_with}
    optimizer = optimizer_class(grouped(weight, bias), 0.05, lam=0.1, **options)
    assert optimizer.phase == optimizer.next_phase
    assert phases(optimizer, [weight, bias], 9) == expected


@pytest.mark.parametrize("regularizer", ["l1", "kernels", "filters"])
@pytest.mark.parametrize(
    ("levels", "plain", "options"),
    [
        (MLLinBreg, LinBreg, {}),
        (MLLinBreg, LinBreg, {"momentum": 0.9}),
        (MLAdaBreg, AdaBreg, {}),
    ],
)
def test_no_coarse_steps_is_the_plain_optimizer_bit_for_bit(levels, plain, options, regularizer):
    first, second = problem(), problem()
    optimizers = [
        levels(grouped(*first, regularizer), 0.1, lam=0.2, coarse_steps=0, **options),
        plain(grouped(*second, regularizer), 0.1, lam=0.2, **options),
    ]
    for step in range(12):
        for parameters, optimizer in zip((first, second), optimizers, strict=True):
            draw(parameters, step)
            optimizer.step()
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(optimizers[0].duals()[a], optimizers[1].duals()[b])


@pytest.mark.parametrize("regularizer", ["l1", "kernels", "filters"])
@pytest.mark.parametrize(
    ("optimizer_class", "options"),
    [(MLLinBreg, {}), (MLLinBreg, {"momentum": 0.8}), (MLAdaBreg, {})],
)
def test_inactive_entries_are_frozen_in_coarse_phases(optimizer_class, options, regularizer):
    weight, bias = problem()
    with torch.no_grad():
        weight[1] = 0.0  # whole units must be inactive for the groups, too
        weight[:, 0] = 0.0
    optimizer = optimizer_class(grouped(weight, bias, regularizer), 0.3, lam=0.2, coarse_steps=4, **options)
    tensors = ("dual", "momentum_buffer", "exp_avg", "exp_avg_sq")
    revived = returned = 0
    for step in range(20):
        draw([weight, bias], step)
        phase, masks = optimizer.next_phase, optimizer.active_masks()[weight].clone()
        before = {k: optimizer.state[weight][k].clone() for k in tensors if k in optimizer.state[weight]}
        alive, old_bias = weight.detach() != 0, bias.detach().clone()
        optimizer.step()
        after = optimizer.state[weight]
        assert not torch.equal(bias, old_bias)
        if phase == "coarse":
            assert torch.equal(optimizer.active_masks()[weight], masks)
            assert not bool((weight != 0)[~masks].any())
            assert all(torch.equal(value[~masks], after[key][~masks]) for key, value in before.items())
            returned += int(((weight != 0) & ~alive).sum())
        elif before and not bool(masks.all()):
            assert all(not torch.equal(value[~masks], after[key][~masks]) for key, value in before.items())
            revived += int(((weight != 0) & ~masks).sum())
    assert revived > 0
    if regularizer == "l1":
        assert returned > 0  # an active weight may reach zero and return


def test_first_coarse_phase_freezes_momentum_at_zero():
    weight, bias = problem()
    optimizer = MLLinBreg(grouped(weight, bias), 0.1, lam=0.2, coarse_steps=4, momentum=0.5)
    draw([weight, bias], 0)
    inactive = weight.detach() == 0
    optimizer.step()
    assert not bool(optimizer.state[weight]["momentum_buffer"][inactive].any())
    assert not bool(optimizer.state[weight]["dual"][inactive].any())


def test_non_finite_gradients_of_inactive_entries_stay_outside():
    weight, bias = problem()
    optimizer = MLLinBreg(grouped(weight, bias), 0.1, lam=0.2, coarse_steps=4)
    inactive = weight.detach() == 0
    draw([weight, bias], 0)
    weight.grad[inactive] = float("nan")
    optimizer.step()
    assert bool(weight.isfinite().all())
    assert bool(optimizer.duals()[weight].isfinite().all())


def test_active_units_of_groups_are_whole():
    weight = torch.zeros(2, 2, 2, 2)
    weight[0, 1, 0, 0] = 1.0
    weight = torch.nn.Parameter(weight)
    expected = torch.zeros(2, 2, 2, 2, dtype=torch.bool)
    expected[0, 1] = True
    mask = MLLinBreg([weight], 0.1, "kernels", 0.1).active_masks()[weight]
    assert torch.equal(mask, expected)
    expected[0] = True
    assert torch.equal(MLLinBreg([weight], 0.1, "filters", 0.1).active_masks()[weight], expected)


def test_saved_mask_and_not_the_support_rules_after_loading():
    """In the middle of a coarse phase an active weight that is just zero must be allowed to return."""
    weight = torch.nn.Parameter(torch.tensor([0.05, 1.0, 0.0]))
    optimizer = MLLinBreg([weight], 1.0, "l1", 0.1, coarse_steps=5)
    weight.grad = torch.tensor([0.1, 0.0, 0.0])
    optimizer.step()
    assert float(weight[0].detach()) == 0.0
    twin = torch.nn.Parameter(weight.detach().clone())
    other = MLLinBreg([twin], 0.5, "l1", 0.3, coarse_steps=7, start_with="fine")
    other.load_state_dict(optimizer.state_dict())
    assert other.next_phase == "coarse"
    mask = other.active_masks()[twin]
    assert mask.dtype == torch.bool
    assert mask.tolist() == [True, True, False]
    twin.grad = torch.tensor([-0.2, 0.0, -9.0])
    other.step()
    assert twin.tolist() == pytest.approx([0.15, 1.0, 0.0])


def test_groups_share_the_cycle():
    weight, bias = problem()
    optimizer = MLLinBreg([weight], 0.1, "l1", 0.1, coarse_steps=3)
    draw([weight], 0)
    optimizer.step()
    optimizer.add_param_group({"params": [bias], "regularizer": None})
    assert optimizer.param_groups[1]["position"] == 1
    with pytest.raises(ValueError, match="coarse_steps 5 differs from 3"):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], "coarse_steps": 5})
    assert len(optimizer.param_groups) == 2
    assert phases(optimizer, [weight, bias], 4) == "ccfc"


def test_lambda_lowered_in_a_coarse_phase_takes_new_entries_in():
    weight = torch.nn.Parameter(torch.tensor([1.0, 0.0]))
    optimizer = MLLinBreg([weight], 0.1, "l1", 1.0, coarse_steps=2, start_with="fine")
    weight.grad = torch.tensor([0.0, -8.0])  # v = (2, 0.8)
    optimizer.step()
    optimizer.step()
    assert optimizer.phase == "coarse"
    assert weight.tolist() == pytest.approx([1.0, 0.0])
    optimizer.set_lambda(0.5, "keep")
    assert weight.tolist() == pytest.approx([1.5, 0.3])
    assert optimizer.active_masks()[weight].tolist() == [True, True]


def test_reset_dual_in_a_coarse_phase_reads_the_masks_again():
    weight = torch.nn.Parameter(torch.tensor([1.0, 0.0]))
    optimizer = MLLinBreg([weight], 0.1, "l1", 0.1, coarse_steps=3)
    weight.grad = torch.tensor([1.0, 1.0])
    optimizer.step()
    with torch.no_grad():
        weight.copy_(torch.tensor([0.0, 1.0]))
    optimizer.reset_dual()
    assert optimizer.active_masks()[weight].tolist() == [False, True]
    optimizer.step()
    assert optimizer.phase == "coarse"
    assert weight.tolist() == pytest.approx([0.0, 0.9])


def golden(**options):
    start = torch.tensor((0.5, -0.3, 0.0, 0.0, 0.02), dtype=torch.float64)
    gradients = ((0.2, -0.4, 1.0, -0.6, 0.3), (-0.1, 0.5, 1.5, -0.9, 0.4), (0.3, 0.3, -0.2, -1.0, 0.0))
    weight = torch.nn.Parameter(start)
    optimizer = MLLinBreg([weight], 0.1, "l1", 0.1, coarse_steps=1, **options)
    seen = []
    for gradient in gradients:
        weight.grad = torch.tensor(gradient, dtype=torch.float64)
        seen.append(optimizer.next_phase[0])
        optimizer.step()
    return "".join(seen), optimizer.next_phase[0]


def test_support_change_waits_for_a_stable_support():
    # The supports of the LinBreg vectors: 3 active, then 2 (one left), 4 (two came), 4 (none).
    assert golden(start_with="fine", criterion="support_change", eta=0.0) == ("fff", "c")
    # One change among 2 active weights is a share of 0.5, two among 4 as well.
    assert golden(start_with="fine", criterion="support_change", eta=0.5) == ("fcf", "c")
    assert golden(start_with="fine", criterion="support_change", eta=0.49) == ("fff", "c")


def test_ml_bpgd_tests_gradient_and_distance():
    # After the first fine step the active part of g is (0.2, -0.4): ||R g|| / ||g|| = 0.447 / 1.285 = 0.348.
    assert golden(start_with="fine", criterion="ml_bpgd", kappa=0.347, eta=0.0) == ("fcf", "c")
    # With a larger kappa step 2 is fine; after it four of five weights are active, and the test holds.
    assert golden(start_with="fine", criterion="ml_bpgd", kappa=0.349, eta=0.0) == ("ffc", "f")
    assert golden(start_with="fine", criterion="ml_bpgd", kappa=1.01, eta=0.0) == ("fff", "f")
    # A coarse phase begins from (.48, -.26, 0, 0, 0); the fine step after it ends at (.46, -.34, 0, .06, 0), that is
    # 0.102 away, and its length is 0.575: the ratio is 0.177.
    assert golden(start_with="fine", criterion="ml_bpgd", kappa=0.0, eta=0.17) == ("fcf", "c")
    assert golden(start_with="fine", criterion="ml_bpgd", kappa=0.0, eta=0.18) == ("fcf", "f")


@pytest.mark.parametrize("criterion", ["support_change", "ml_bpgd"])
def test_loose_criteria_equal_the_fixed_period(criterion):
    first, second = problem(), problem()
    eta = 0.0 if criterion == "ml_bpgd" else 1e6
    loose = MLLinBreg(grouped(*first), 0.1, lam=0.2, coarse_steps=2, criterion=criterion, kappa=0.0, eta=eta)
    fixed = MLLinBreg(grouped(*second), 0.1, lam=0.2, coarse_steps=2)
    assert phases(loose, first, 9) == phases(fixed, second, 9)
    assert torch.equal(first[0], second[0])


TABLE = {
    0: (34.0, 34.7, 36.7, 37.1, 38.0, 40.0, 46.7),
    4: (7.6, 8.5, 11.3, 12.0, 13.2, 16.0, 25.3),
    9: (4.3, 5.3, 8.2, 8.8, 10.1, 13.0, 22.7),
    19: (2.6, 3.6, 6.6, 7.3, 8.55, 11.5, 21.3),
    49: (1.7, 2.7, 5.6, 6.3, 7.6, 10.6, 20.5),
    99: (1.3, 2.3, 5.3, 6.0, 7.3, 10.3, 20.3),
    199: (1.2, 2.2, 5.2, 5.9, 7.2, 10.2, 20.1),
}


@pytest.mark.parametrize("coarse_steps", TABLE)
def test_phases_reproduce_the_table_of_costs(coarse_steps):
    """Forward and input gradient always cost the density, the weight gradient only in coarse steps."""
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = MLLinBreg([weight], 0.1, "l1", 0.1, coarse_steps=coarse_steps)
    weight.grad = torch.zeros(2)
    seen = []
    for _ in range(coarse_steps + 1):
        seen.append(optimizer.next_phase)
        optimizer.step()
    densities = (0.01, 0.02, 0.05, 0.057, 0.07, 0.10, 0.20)
    for density, expected in zip(densities, TABLE[coarse_steps], strict=True):
        cost = sum(2 * density + (density if phase == "coarse" else 1.0) for phase in seen)
        assert 100 * cost / (3 * len(seen)) == pytest.approx(expected, abs=0.051)
