import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import closed_form

from sparsebench.cost.flops import layer_costs
from sparsebench.cost.layers import forward_ratio, plan_rows
from sparsebench.functional.distribution import erk, uniform
from sparsebench.functional.schedule import cubic
from sparsebench.models import build
from sparsebench.sparse import Prunable

# flops.md, section 4: (name, classes, side, options): weights, MACs of a forward pass
NETWORKS = {
    "resnet50": (("resnet50", 1000, 224, {"stem": "imagenet"}), 25_502_912, 4_089_184_256),
    "wrn22_2": (("wrn22_2", 10, 32, {}), 1_076_912, 157_730_048),
    "resnet50 cifar": (("resnet50", 100, 32, {}), 23_652_032, 1_298_014_208),
    "vgg19": (("vgg19", 10, 32, {}), 20_024_000, 398_136_320),
}
# (network, sparsity): phi of ERK, of uniform with a dense first layer; layers that ERK makes dense
RATIOS = {
    ("resnet50", 0.80): ("0.4138", "0.2231", 8),
    ("resnet50", 0.90): ("0.2418", "0.1260", 1),
    ("wrn22_2", 0.80): ("0.3521", "0.2022", 5),
    ("resnet50 cifar", 0.80): ("0.3851", "0.2011", 9),
    ("resnet50 cifar", 0.90): ("0.2247", "0.1012", 2),
    ("vgg19", 0.80): ("0.4052", "0.2036", 4),
    ("vgg19", 0.90): ("0.2225", "0.1040", 2),
    ("vgg19", 0.95): ("0.1131", "0.0542", 2),
}


@pytest.fixture(scope="module")
def networks():
    """Costs and shapes of each network."""
    found = {}
    for key, ((name, classes, side, options), _, _) in NETWORKS.items():
        with torch.device("meta"):
            module = build(name, classes=classes, shape=(3, side, side), **options)
            costs = layer_costs(module, torch.zeros(1, 3, side, side))
        found[key] = costs, {n: tuple(p.shape) for n, p in Prunable().select(module).items()}
    return found


@pytest.mark.parametrize("key", NETWORKS)
def test_table_of_networks(networks, key):
    costs, shapes = networks[key]
    _, weights, macs = NETWORKS[key]
    assert sum(math.prod(shape) for shape in shapes.values()) == weights
    assert sum(cost.macs for cost in costs) == macs


@pytest.mark.parametrize(("key", "sparsity"), RATIOS)
def test_table_of_forward_ratios(networks, key, sparsity):
    costs, shapes = networks[key]
    by_erk, by_uniform, dense = RATIOS[key, sparsity]
    densities = erk(shapes, 1 - sparsity)
    assert f"{forward_ratio(costs, densities):.4f}" == by_erk
    assert sum(density == 1 for density in densities.values()) == dense
    backwards = erk(dict(reversed(shapes.items())), 1 - sparsity)
    assert all(densities[name] == pytest.approx(backwards[name], abs=1e-12) for name in shapes)
    first = dict.fromkeys(shapes, 1 - sparsity) | {next(iter(shapes)): 1.0}
    assert f"{forward_ratio(costs, first):.4f}" == by_uniform
    assert f"{forward_ratio(costs, uniform(shapes, 1 - sparsity)):.3f}" == f"{1 - sparsity:.3f}"


@pytest.mark.parametrize(
    ("key", "share"), [("resnet50", 0.02886), ("resnet50 cifar", 0.00136), ("wrn22_2", 0.00280), ("vgg19", 0.00444)]
)
def test_share_of_the_first_layer(networks, key, share):
    costs, shapes = networks[key]
    others = dict.fromkeys(shapes, 0.0) | {next(iter(shapes)): 1.0}
    assert forward_ratio(costs, others) == pytest.approx(share, abs=5e-6)


@pytest.mark.parametrize(
    ("sparsity", "rigl_erk", "rigl_uniform", "longer_erk", "longer_uniform", "snfs_erk"),
    [
        (0.8, "0.4157", "0.2257", "2.079", "1.128", "0.6092"),
        (0.9, "0.2443", "0.1289", "1.222", "0.644", "0.4946"),  # 1.2217; the reference rounded before multiplying
    ],
)
def test_table_of_training_ratios(networks, sparsity, rigl_erk, rigl_uniform, longer_erk, longer_uniform, snfs_erk):
    costs, shapes = networks["resnet50"]
    by_erk = forward_ratio(costs, erk(shapes, 1 - sparsity))
    by_uniform = forward_ratio(costs, dict.fromkeys(shapes, 1 - sparsity) | {next(iter(shapes)): 1.0})
    assert f"{closed_form.rigl(by_erk, period=100):.4f}" == rigl_erk
    assert f"{closed_form.rigl(by_uniform, period=100):.4f}" == rigl_uniform
    assert f"{5 * closed_form.rigl(by_erk, period=100):.3f}" == longer_erk
    assert f"{5 * closed_form.rigl(by_uniform, period=100):.3f}" == longer_uniform
    assert f"{closed_form.snfs(by_erk):.4f}" == snfs_erk


@pytest.mark.parametrize(("sparsity", "ratio"), [(0.8, "0.557"), (0.9, "0.502")])
def test_gradual_pruning_of_table_4_3(sparsity, ratio):
    first = 0.02886  # share of the dense first layer
    phis = []
    for step in range(0, 32_000, 10):
        density = cubic(1.0, 1 - sparsity, min(1.0, max(0.0, (step - 10_000) / 15_000)))
        phis.append(density + (1 - density) * first)
    assert f"{closed_form.gmp(phis):.3f}" == ratio


PHIS = (0.01, 0.02, 0.05, 0.057, 0.07, 0.10, 0.20)
BREGMAN = {
    0: (34.0, 34.7, 36.7, 37.1, 38.0, 40.0, 46.7),
    4: (7.6, 8.5, 11.3, 12.0, 13.2, 16.0, 25.3),
    9: (4.3, 5.3, 8.2, 8.8, 10.1, 13.0, 22.7),
    19: (2.6, 3.6, 6.6, 7.3, 8.6, 11.5, 21.3),
    49: (1.7, 2.7, 5.6, 6.3, 7.6, 10.6, 20.5),
    99: (1.3, 2.3, 5.3, 6.0, 7.3, 10.3, 20.3),
    199: (1.2, 2.2, 5.2, 5.9, 7.2, 10.2, 20.1),
}


@pytest.mark.parametrize("m", BREGMAN)
def test_table_of_bregman_methods(m):
    got = [100 * closed_form.multilevel(phi, m=m) for phi in PHIS]
    # a value in the middle of two printed digits may fall to either side
    assert all(abs(a - b) <= 0.05 + 1e-9 for a, b in zip(got, BREGMAN[m], strict=True))


FORMS = {
    "static": closed_form.static,
    "gmp": lambda phi: closed_form.gmp([phi, phi]),
    "snfs": closed_form.snfs,
    "linbreg": closed_form.linbreg,
    "rigl": lambda phi: closed_form.rigl(phi, period=7),
    "granet": lambda phi: closed_form.granet([phi], period=7),
    "multilevel": lambda phi: closed_form.multilevel(phi, m=4),
    "ac_dc": lambda phi: closed_form.ac_dc(phi, share_dense=0.4),
}


@pytest.mark.parametrize("name", FORMS)
@given(phi=st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_one_network_costs_between_its_density_and_one(name, phi):
    assert FORMS[name](1.0) == 1.0
    assert phi - 1e-12 <= FORMS[name](phi) <= 1 + 1e-12


@given(phi=st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_limits_and_relations(phi):
    assert closed_form.rigl(phi, period=10**9) == pytest.approx(phi, abs=1e-8)
    assert closed_form.multilevel(phi, m=0) == closed_form.linbreg(phi) == closed_form.snfs(phi)
    assert closed_form.snfs(phi) == pytest.approx((2 * phi + 1) / 3)
    assert closed_form.granet([phi, phi], period=30) == pytest.approx(closed_form.rigl(phi, period=30))
    assert closed_form.ac_dc(phi, share_dense=0.0) == phi
    assert closed_form.ac_dc(phi, share_dense=1.0) == 1.0


def test_floors_and_two_networks():
    assert closed_form.linbreg(0.0) == pytest.approx(1 / 3)
    assert closed_form.multilevel(0.0, m=4) == pytest.approx(1 / 15)
    assert closed_form.vr_pge(0.75) == pytest.approx(1.0)
    assert closed_form.vr_pge(0.5, backwards=2) == pytest.approx(1.0)
    assert closed_form.prob_mask() == 2.0
    assert closed_form.dense() == 1.0
    assert closed_form.ac_dc(0.1, share_dense=0.25) == pytest.approx(0.325)
    assert closed_form.imp([0.8**k for k in range(4)]) == pytest.approx((1 - 0.8**4) / 0.2)


@pytest.mark.parametrize(
    "call",
    [
        lambda: closed_form.static(1.2),
        lambda: closed_form.rigl(0.1, period=-1),
        lambda: closed_form.gmp([]),
        lambda: closed_form.vr_pge(0.5, backwards=3),
        lambda: closed_form.prob_mask(samples=0),
        lambda: closed_form.ac_dc(0.5, share_dense=-0.1),
    ],
)
def test_impossible_numbers(call):
    with pytest.raises(ValueError):
        call()


def test_plan_rows_sum_to_the_network(networks):
    costs, shapes = networks["vgg19"]
    densities = erk(shapes, 0.1)
    rows = plan_rows(costs, densities)
    assert [row.name for row in rows] == list(shapes)
    assert all(row.shape == shapes[row.name] and row.density == densities[row.name] for row in rows)
    assert sum(row.dense_flops for row in rows) == 2 * NETWORKS["vgg19"][2]
    ratio = sum(row.active_flops for row in rows) / sum(row.dense_flops for row in rows)
    assert ratio == forward_ratio(costs, densities)


def test_a_network_without_products_has_no_ratio():
    with pytest.raises(ValueError, match="no FLOPs"):
        forward_ratio([], {})
