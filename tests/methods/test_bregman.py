"""Bregman methods: sparse start, control of lambda, masks as a mirror, costs, and what is refused."""

from __future__ import annotations

import copy
import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

from sparsebench.cost.flops import LayerCost
from sparsebench.cost.ledger import Ledger
from sparsebench.cost.passes import SPARSE, SPARSE_DENSE_WEIGHT
from sparsebench.functional.distribution import erk
from sparsebench.methods import Bregman, Clock, Dense, MultilevelBregman, Probe, Proximal
from sparsebench.methods.lambda_control import measure_density, present_lambda
from sparsebench.optim import AdaBreg, LinBreg, MLAdaBreg, MLLinBreg, ProxSGD, regularized_groups
from sparsebench.sparse import SparseModel
from sparsebench.sparse.statistics import explored


def conv_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(16, 5)
    )


def probe_of(module: nn.Module) -> Probe:
    return Probe(lambda number: [], lambda weights: torch.zeros(()), parameters=dict(module.named_parameters()))


def started(method, module):
    net = SparseModel.of(module, seed=3)
    method.start(net, probe_of(module))
    return net


def optimizer_for(module, net, kind=LinBreg, *, regularizer="l1", **options):
    return kind(regularized_groups(module, net.params, regularizer=regularizer), regularizer=regularizer, **options)


def train(method, module, net, optimizer, steps, *, batch=6, total=None, seen=None):
    generator = torch.Generator().manual_seed(1)
    total = total or steps
    for step in range(steps):
        images = torch.randn(batch, 3, 6, 6, generator=generator)
        labels = (images.mean(dim=(1, 2, 3)) > 0).long()
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(images), labels).backward()
        method.before_step(net, Clock(step, total), optimizer)
        optimizer.step()
        method.after_step(net, Clock(step + 1, total), optimizer)
        if seen is not None:
            seen(step + 1)


# -- sparse start -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("density", [0.01, 0.1, 0.5])
def test_the_start_keeps_the_variance_and_the_exact_count(density):
    layer = nn.Linear(1200, 1000)
    dense = layer.weight.detach().std().item()
    net = started(Bregman(init_density=density), nn.Sequential(layer))
    assert int(layer.weight.count_nonzero()) == round(density * layer.weight.numel()) == net.counts["0.weight"]
    assert layer.weight.detach().std().item() == pytest.approx(dense, rel=0.05)
    assert 1 - net.density == pytest.approx(1 - density)


def test_a_layer_never_starts_empty_and_norms_are_not_touched():
    module = conv_net()
    norm = {k: v.clone() for k, v in module[1].state_dict().items()}
    net = started(Bregman(init_density=0.001), module)
    assert min(net.counts.values()) == 1
    assert all(torch.equal(v, norm[k]) for k, v in module[1].state_dict().items())


@pytest.mark.parametrize(("units", "groups"), [("kernels", 24), ("filters", 8), ("rows", 8)])
def test_groups_start_whole(units, groups):
    layer = nn.Conv2d(3, 8, 3)
    started(Bregman(init_density=0.25, units=units), nn.Sequential(layer))
    weight = layer.weight.detach()
    alive = (weight != 0).reshape(groups, -1)
    assert alive.all(1).sum() == groups // 4
    assert not alive[~alive.all(1)].any()


def test_gain_and_biases():
    module = conv_net()
    before = {k: v.detach().clone() for k, v in module.named_parameters()}
    net = started(Bregman(init_density=0.5, init_gain=3.0), module)
    for name, mask in net.masks.items():
        torch.testing.assert_close(net.params[name].detach(), torch.where(mask, 3.0 * before[name], 0.0))
    for index, fan_in in ((0, 27), (3, 72), (5, 16)):
        bias = module[index].bias.detach()
        assert bias.min() > 0
        assert bias.max() <= fan_in**-0.5
    untouched = conv_net()
    started(Bregman(init_density=0.5, bias_init=None), untouched)
    assert torch.equal(untouched[5].bias, before["5.bias"])


def test_a_dense_start_changes_no_weight_and_a_given_one_is_kept():
    module = conv_net()
    before = copy.deepcopy(module.state_dict())
    net = started(Bregman(init_density=1.0, bias_init=None), module)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert net.density == 1.0
    assert len(net.masks) == 3
    with torch.no_grad():
        module[0].weight[:4] = 0.0
    net = started(Bregman(init_density=None), module)
    assert net.densities["0.weight"] == 0.5


def test_the_start_is_a_function_of_the_seed_and_may_follow_a_distribution():
    one, two = (started(Bregman(init_density=0.3), conv_net()) for _ in range(2))
    assert one.digest() == two.digest()
    uneven = started(Bregman(init_density=0.3, distribution=erk), conv_net())
    assert uneven.counts["0.weight"] / 216 > uneven.counts["3.weight"] / 288


# -- equality with SGD, and recovery ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "kind", "options"),
    [
        (Bregman, LinBreg, {}),
        (MultilevelBregman, MLLinBreg, {"coarse_steps": 3}),
        (Proximal, ProxSGD, {}),
    ],
)
def test_without_lambda_a_dense_start_is_sgd(method, kind, options):
    module, twin = conv_net(), conv_net()
    bregman = method(init_density=1.0, bias_init=None, **options)
    net = started(bregman, module)
    train(bregman, module, net, optimizer_for(module, net, kind, lr=0.1, lam=0.0, **options), 9)
    train(Dense(), twin, SparseModel.of(twin), torch.optim.SGD(twin.parameters(), lr=0.1), 9)
    torch.testing.assert_close(dict(module.state_dict()), dict(twin.state_dict()), rtol=0, atol=1e-6)


class LeastSquares(nn.Module):
    """A x = b with a sparse solution; ``layer`` holds x."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(0)
        self.matrix = torch.randn(100, 200, generator=generator) / 10
        self.truth = torch.zeros(200)
        places = torch.randperm(200, generator=generator)[:10]
        self.truth[places] = torch.randn(10, generator=generator).sign() * (1 + torch.rand(10, generator=generator))
        self.layer = nn.Linear(200, 1, bias=False)

    def loss(self) -> torch.Tensor:
        return 0.5 * (self.matrix @ (self.layer.weight[0] - self.truth)).square().sum()


def solve(method, kind, lam, steps=800, **options):
    problem = LeastSquares()
    net = started(method, problem)
    optimizer = optimizer_for(problem, net, kind, lr=0.2, lam=lam, **options)
    ledger = Ledger([LayerCost("layer", "layer.weight", (1, 200), 200)])
    for step in range(steps):
        optimizer.zero_grad()
        problem.loss().backward()
        passes, densities = method.passes(net, Clock(step, steps)), net.densities
        method.before_step(net, Clock(step, steps), optimizer)
        optimizer.step()
        method.after_step(net, Clock(step + 1, steps), optimizer)
        ledger.charge(passes, densities, 1)
    support = problem.layer.weight[0].detach() != 0
    return problem, support, ledger


@pytest.mark.parametrize("coarse_steps", [0, 9])
def test_recovers_a_sparse_solution(coarse_steps):
    options = {"coarse_steps": coarse_steps}
    method = MultilevelBregman(init_density=0.05, **options)
    problem, support, ledger = solve(method, MLLinBreg, 1.0, **options)
    assert (problem.layer.weight[0] - problem.truth).abs().max() < 0.02
    assert support[problem.truth != 0].all()
    assert support.sum() <= (100 if coarse_steps == 0 else 25)
    assert ledger.train_flops_ratio < (0.7 if coarse_steps == 0 else 0.15)


def test_the_figure_of_the_card_levels_recover_the_support_exactly_where_linbreg_keeps_more():
    solve_as_drawn = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "sparse_recovery.py"))["solve"]
    torch.set_default_dtype(torch.float64)
    try:
        (linbreg, _, _), (levels, ledger, _) = solve_as_drawn(0, 0), solve_as_drawn(0, 9)
    finally:
        torch.set_default_dtype(torch.float32)
    for problem in (linbreg, levels):
        assert (problem.found - problem.truth).abs().max() < 1e-9
    assert torch.equal(levels.found != 0, levels.truth != 0)
    assert linbreg.found.count_nonzero() >= 20
    assert ledger.train_flops_ratio < 0.1


def test_the_dense_solution_is_not_the_sparse_one():
    problem, support, _ = solve(Bregman(init_density=1.0), LinBreg, 0.0, steps=400)
    assert problem.loss().item() < 1e-3
    assert support.all()
    assert (problem.layer.weight[0] - problem.truth).abs().max() > 0.5


# -- masks, costs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("units", ["l1", "kernels"])
def test_masks_mirror_the_support_and_the_union_grows(units):
    module = conv_net()
    module[5] = nn.Conv2d(4, 5, 1) if units == "kernels" else module[5]
    module = module if units == "l1" else nn.Sequential(*module[:4], nn.Conv2d(4, 5, 2), nn.Flatten())
    method = Bregman(init_density=0.3, units=units, measure_every=1)
    net = started(method, module)
    optimizer = optimizer_for(module, net, regularizer=units, lr=0.5, lam=0.02)
    seen = []

    def look(step):
        for name, parameter in net.params.items():
            assert torch.equal(net.masks[name], parameter != 0)
        seen.append(explored(net))

    train(method, module, net, optimizer, 12, seen=look)
    assert seen == sorted(seen)
    assert seen[-1] > 0.3


def test_measuring_rarely_changes_no_weight_and_ends_exact():
    weights = []
    for every in (1, 7):
        module = conv_net()
        method = Bregman(init_density=0.3, measure_every=every)
        net = started(method, module)
        train(method, module, net, optimizer_for(module, net, lr=0.5, lam=0.02), 10)
        assert all(torch.equal(net.masks[name], p != 0) for name, p in net.params.items())
        weights.append(copy.deepcopy(module.state_dict()))
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.parametrize("start_with", ["coarse", "fine"])
@pytest.mark.parametrize("criterion", ["fixed", "support_change", "ml_bpgd"])
@pytest.mark.parametrize("coarse_steps", [0, 3])
def test_the_ledger_hears_the_phases_that_the_optimizer_takes(start_with, criterion, coarse_steps):
    options = {"coarse_steps": coarse_steps, "start_with": start_with, "criterion": criterion}
    module = conv_net()
    method = MultilevelBregman(init_density=0.3, **options)
    net = started(method, module)
    optimizer = optimizer_for(module, net, MLLinBreg, lr=0.5, lam=0.02, **options)
    stated = [method.passes(net, Clock(0, 14))]
    taken = []

    def look(step):
        taken.append(optimizer.phase)
        stated.append(method.passes(net, Clock(step, 14)))

    train(method, module, net, optimizer, 14, seen=look)
    assert stated[:-1] == [SPARSE_DENSE_WEIGHT if phase == "fine" else SPARSE for phase in taken]
    assert ("coarse" in taken) == (coarse_steps > 0)


def test_the_level_is_the_mask_throughout_a_coarse_phase():
    module = conv_net()
    method = MultilevelBregman(init_density=0.3, coarse_steps=4)
    net = started(method, module)
    optimizer = optimizer_for(module, net, MLLinBreg, lr=1.0, lam=0.05, coarse_steps=4)

    def look(step):
        for parameter, active in optimizer.active_masks().items():
            name = next(n for n, p in net.params.items() if p is parameter)
            if step < 20:
                assert torch.equal(net.masks[name], active), step
            assert not parameter.detach()[~net.masks[name]].any()

    train(method, module, net, optimizer, 20, seen=look)


@pytest.mark.parametrize(
    ("coarse_steps", "density", "percent"),
    [(0, 0.07, 38.0), (99, 0.057, 6.0), (9, 0.1, 13.0), (4, 0.01, 7.6), (19, 0.2, 21.3)],
)
def test_costs_of_the_reference_table(coarse_steps, density, percent):
    method = MultilevelBregman(coarse_steps=coarse_steps)
    ledger = Ledger([LayerCost("layer", "weight", (1000,), 100_000)])
    for step in range(2 * (coarse_steps + 1)):
        ledger.charge(method.passes(None, Clock(step, 1000)), {"weight": density}, 8)
    assert 100 * ledger.train_flops_ratio == pytest.approx(percent, abs=0.05)


# -- control of lambda ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [LinBreg, AdaBreg])
@pytest.mark.parametrize("steps", [10, 13])
def test_the_quantile_rule_keeps_exactly_the_budget(kind, steps):
    module = conv_net()
    method = Bregman(control="quantile", density=0.2, init_density=0.2, control_every=5)
    net = started(method, module)
    train(method, module, net, optimizer_for(module, net, kind, lr=0.05, lam=0.01), steps)
    total = sum(p.numel() for p in net.params.values())
    assert sum(int(p.count_nonzero()) for p in net.params.values()) == round(0.2 * total)
    assert sum(net.counts.values()) == round(0.2 * total)


@pytest.mark.parametrize(("kind", "steps"), [(MLLinBreg, 12), (MLLinBreg, 14), (MLAdaBreg, 14)])
def test_the_quantile_rule_meets_the_budget_after_each_fine_step_and_at_the_end(kind, steps):
    module = conv_net()
    method = MultilevelBregman(control="quantile", density=0.2, init_density=0.2, control_every=1, coarse_steps=3)
    net = started(method, module)
    optimizer = optimizer_for(module, net, kind, lr=0.05, lam=0.01, coarse_steps=3)
    wanted = round(0.2 * sum(p.numel() for p in net.params.values()))
    lambdas = []

    def look(step):
        lambdas.append(present_lambda(optimizer))
        if optimizer.phase == "fine":
            # Adam's first step is the same for all: such ties do not stay
            assert sum(net.counts.values()) == wanted or (kind is MLAdaBreg and step < 9)
        elif step < steps:
            assert lambdas[-1] == [0.01, *lambdas][-2], "lambda stays in a coarse phase"

    train(method, module, net, optimizer, steps, seen=look)
    assert sum(int(p.count_nonzero()) for p in net.params.values()) == wanted


def test_a_ramp_leads_from_the_start_to_the_target():
    method = Bregman(control="quantile", density=0.1, init_density=1.0, ramp=0.5)
    assert [method.target(Clock(s, 100)) for s in (0, 50, 80)] == [1.0, 0.1, 0.1]
    assert method.target(Clock(25, 100)) == pytest.approx(0.1 + 0.9 / 8)


@pytest.mark.parametrize(("control", "options"), [("multiplicative", {"gain": 2.0}), ("additive", {"increment": 0.01})])
def test_controllers_reach_the_band(control, options):
    module = conv_net()
    method = Bregman(control=control, density=0.3, init_density=0.8, control_every=5, **options)
    net = started(method, module)
    optimizer = optimizer_for(module, net, lr=0.2, lam=1e-3)
    late = []
    train(method, module, net, optimizer, 600, seen=lambda step: late.append(measure_density(net)))
    assert late[0] > 0.6
    assert sum(late[-100:]) / 100 == pytest.approx(0.3, abs=0.08)


def test_a_controller_acts_only_just_before_a_fine_step():
    module = conv_net()
    method = MultilevelBregman(
        control="additive", density=0.01, init_density=0.5, control_every=3, coarse_steps=4, increment=0.001
    )
    net = started(method, module)
    optimizer = optimizer_for(module, net, MLLinBreg, lr=0.1, lam=0.01, coarse_steps=4)
    changes = []

    def look(step):
        changes.append((round(present_lambda(optimizer), 6), optimizer.phase))

    train(method, module, net, optimizer, 15, seen=look)
    assert changes == [(round(0.01 + 0.001 * ((s + 1) // 5), 6), "fine" if s % 5 == 4 else "coarse") for s in range(15)]


def test_shift_leaves_the_weights_and_keep_moves_them():
    for policy in ("keep", "shift", "reset"):
        module = conv_net()
        method = Bregman(control="additive", density=0.01, control_every=1, increment=0.01, on_lambda_change=policy)
        net = started(method, module)
        optimizer = optimizer_for(module, net, lr=0.01, lam=0.01)
        train(method, module, net, optimizer, 2, total=9)
        before = {n: p.detach().clone() for n, p in net.params.items()}
        method.before_step(net, Clock(2, 9), optimizer)
        assert present_lambda(optimizer) == pytest.approx(0.03)
        same = all(torch.equal(p, before[n]) for n, p in net.params.items())
        assert same == (policy != "keep")


def test_the_proximal_baseline_can_be_controlled():
    module = conv_net()
    method = Proximal(control="additive", density=0.01, control_every=1, increment=0.01)
    net = started(method, module)
    optimizer = optimizer_for(module, net, ProxSGD, lr=0.1, lam=0.0)
    train(method, module, net, optimizer, 3, total=9)
    assert present_lambda(optimizer) == pytest.approx(0.02)


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"init_density": 0.0}, "never leaves zero"),
        ({"init_density": 1.2}, "at most 1"),
        ({"init_gain": 0.0}, "init_gain"),
        ({"init_gain": "big"}, "choose auto"),
        ({"bias_init": "negative"}, "positive_uniform"),
        ({"units": "blocks"}, "unknown"),
        ({"measure_every": 0}, "measure_every"),
        ({"control": "fuzzy"}, "choose constant, additive"),
        ({"control": "quantile"}, "density=None"),
        ({"density": 0.1}, "control=constant"),
        ({"control": "quantile", "density": 0.1, "on_lambda_change": "shift"}, "choose keep"),
        ({"control": "additive", "density": 0.1, "on_lambda_change": "jump"}, "choose keep, reset, shift"),
        ({"control": "additive", "density": 0.1, "increment": -1}, "increment=-1"),
        ({"control": "additive", "density": 0.1, "ramp": 2}, "ramp=2"),
        ({"control": "additive", "density": 1.5}, "density 1.5"),
    ],
)
def test_impossible_settings(wrong, words):
    with pytest.raises(ValueError, match=words) as error:
        Bregman(**wrong)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("method", "optimizer", "words"),
    [
        (Bregman(), lambda p: torch.optim.SGD(p, lr=0.1), "cannot train with SGD: it needs LinBreg or AdaBreg"),
        (Bregman(), lambda p: MLLinBreg(p, lam=0.1), "it needs LinBreg or AdaBreg"),
        (MultilevelBregman(), lambda p: LinBreg(p, lam=0.1), "optimizer=ml_linbreg"),
        (
            MultilevelBregman(),
            lambda p: MLLinBreg(p, lam=0.1, coarse_steps=9),
            "coarse_steps is 99 in the method and 9",
        ),
        (Proximal(), lambda p: LinBreg(p, lam=0.1), "optimizer=prox_sgd"),
        (Bregman(units="rows"), lambda p: LinBreg(p, lam=0.1), "units 'rows'.*'l1'"),
    ],
)
def test_an_optimizer_that_does_not_belong(method, optimizer, words):
    module = nn.Linear(3, 2, bias=False)
    with pytest.raises(ValueError, match=words) as error:
        method.before_step(SparseModel.of(module), Clock(0, 1), optimizer(module.parameters()))
    assert "\n" not in str(error.value)


def test_proximal_has_no_duals_to_rank():
    with pytest.raises(ValueError, match="prox_sgd has no duals"):
        Proximal(control="quantile", density=0.1)


def test_groups_of_the_optimizer():
    module = conv_net()
    names = ["0.weight", "5.weight"]
    groups = regularized_groups(module, names, weight_decay=1e-3, decay_norm_and_bias=False)
    assert [len(group["params"]) for group in groups] == [2, 1, 5]
    assert "regularizer" not in groups[0]
    assert [group["regularizer"] for group in groups[1:]] == [None, None]
    assert [group["weight_decay"] for group in groups] == [1e-3, 1e-3, 0.0]
    with pytest.raises(ValueError, match=r"'9\.weight' is not a parameter"):
        regularized_groups(module, ["9.weight"])
    with pytest.raises(ValueError, match=r"'filters' needs tensors of 3 .* '5.weight' has shape \(5, 16\)"):
        regularized_groups(module, names, regularizer="filters")
    with pytest.raises(ValueError, match=r"'rows' needs tensors of 2 .* '1.bias' has shape \(8,\)"):
        regularized_groups(module, ["1.bias"], regularizer="rows")
