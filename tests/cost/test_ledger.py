import json
import math
import time

import pytest
import torch
from reference import closed_form
from torch import nn

from sparsebench.cost.flops import LayerCost, layer_costs
from sparsebench.cost.ledger import Ledger
from sparsebench.cost.passes import DENSE, SPARSE, SPARSE_DENSE_WEIGHT, Passes
from sparsebench.sparse import SparseModel

# two layers of 100 and 40 MACs per sample
COSTS = [LayerCost("a", "a.weight", (10, 10), 100), LayerCost("b", "b.weight", (4, 10), 40)]
ATTENTION = LayerCost("attention", None, (), 60)
D = 140


def test_three_steps_by_hand():
    ledger = Ledger(COSTS)
    # step 1: densities .5, .25: active 50 + 10 = 60; 8 samples
    ledger.charge(SPARSE, {"a.weight": 0.5, "b.weight": 0.25}, 8)
    assert ledger.pass_flops == {"forward": 960, "input": 960, "weight": 960}
    # step 2: an update, weight gradients dense; 8 samples
    ledger.charge(SPARSE_DENSE_WEIGHT, {"a.weight": 0.5, "b.weight": 0.25}, 8)
    assert ledger.pass_flops == {"forward": 1920, "input": 1920, "weight": 960 + 2 * 8 * D}
    # step 3: the support has moved: .25 and, without a mask, 1: active 25 + 40 = 65; 4 samples
    ledger.charge(SPARSE, {"a.weight": 0.25}, 4)
    assert ledger.pass_flops == {"forward": 2440, "input": 2440, "weight": 960 + 2240 + 520}
    assert ledger.train_flops == 2440 + 2440 + 3720
    assert ledger.train_flops_dense == 2 * 3 * D * 20
    assert ledger.train_flops_ratio == 8600 / 16800
    assert ledger.executed_flops_ratio == 1.0
    assert (ledger.samples, ledger.steps) == (20, 3)


def test_a_share_of_its_own_per_pass():
    ledger = Ledger([*COSTS, ATTENTION])
    forward, backward = {"a.weight": 0.1, "b.weight": 0.1}, {"a.weight": 0.2, "b.weight": 0.5}
    ledger.charge(Passes((forward,), (forward,), (backward,)), {"a.weight": 0.9}, 1)  # Top-KAST
    assert ledger.pass_flops == {"forward": 2 * 74, "input": 2 * 74, "weight": 2 * 100}


def test_products_without_weights_are_always_whole():
    ledger = Ledger([ATTENTION])
    ledger.charge(SPARSE, {}, 5)
    assert ledger.train_flops == ledger.train_flops_dense == 2 * 3 * 60 * 5


def test_two_sampled_networks():
    one, two = {"a.weight": 0.3, "b.weight": 0.5}, {"a.weight": 0.5, "b.weight": 0.25}
    ledger = Ledger(COSTS)
    ledger.charge(Passes((one, two), (one,), (one,)), {}, 10)
    assert ledger.pass_flops == {"forward": 2 * 10 * (50 + 60), "input": 1000, "weight": 1000}
    assert ledger.executed_flops_ratio == 4 / 3
    ledger = Ledger(COSTS)
    half = dict.fromkeys(("a.weight", "b.weight"), 0.5)
    ledger.charge(Passes((half, half), (half,), (half,)), {}, 10)
    assert ledger.train_flops_ratio == pytest.approx(closed_form.vr_pge(0.5))


def test_a_back_end_that_multiplies_less():
    ledger = Ledger(COSTS)
    densities = {"a.weight": 0.2, "b.weight": 0.5}
    padded = {"a.weight": 0.3}
    ledger.charge(SPARSE, densities, 2, executed=Passes((padded,), (padded,), ("dense",)))
    assert ledger.executed_flops == 2 * 2 * (70 + 70 + 140)
    assert ledger.executed_flops_ratio > ledger.train_flops_ratio
    with pytest.raises(AssertionError, match="less than the active"):
        ledger.charge(DENSE, densities, 2, executed=SPARSE)


def test_start_stays_outside_the_ratio():
    ledger = Ledger(COSTS)
    ledger.charge_start(forward=1, backward=1, samples=10)
    ledger.charge_start(forward=2, samples=1)
    assert ledger.start_flops == 2 * (3 * 10 + 2) * D
    assert math.isnan(ledger.train_flops_ratio)
    assert math.isnan(ledger.executed_flops_ratio)
    ledger.charge(SPARSE, dict.fromkeys(("a.weight", "b.weight"), 0.5), 10)
    assert ledger.train_flops_ratio == 0.5


S, W = SPARSE, SPARSE_DENSE_WEIGHT
# flops.md, section 3.1 as data: the steps of one period -> closed form
PERIODS = {
    "dense": ([DENSE], lambda phi: 1.0),
    "static": ([S], closed_form.static),
    "snfs": ([W], closed_form.snfs),
    "linbreg": ([W], closed_form.linbreg),
    "rigl, T sparse steps per update": ([S] * 9 + [W], lambda phi: closed_form.rigl(phi, period=9)),
    "multilevel": ([S] * 4 + [W], lambda phi: closed_form.multilevel(phi, m=4)),
    "ac/dc": ([DENSE] * 2 + [S] * 3, lambda phi: closed_form.ac_dc(phi, share_dense=0.4)),
}


@pytest.mark.parametrize("phi", [0.1, 0.25, 1.0])
@pytest.mark.parametrize("name", PERIODS)
def test_ledger_and_closed_forms_agree(name, phi):
    steps, form = PERIODS[name]
    ledger = Ledger([LayerCost("a", "a.weight", (100,), 10_000)])
    for passes in steps * 3:
        ledger.charge(passes, {"a.weight": phi}, 16)
    assert ledger.train_flops_ratio == pytest.approx(form(phi), abs=1e-12)
    assert ledger.executed_flops_ratio == 1.0
    if phi == 1.0:
        assert ledger.train_flops_ratio == 1.0


def test_one_update_in_a_period_of_steps_differs_in_the_fourth_digit():
    phi = 0.4138
    ledger = Ledger([LayerCost("a", "a.weight", (1,), 10_000)])
    for step in range(32_000):
        update = step % 100 == 0 and 0 < step <= 24_000
        ledger.charge(W if update else S, {"a.weight": phi}, 1)
    assert f"{ledger.train_flops_ratio:.4f}" == "0.4153"


def test_masks_feed_the_ledger():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(36, 5))
    costs, net = layer_costs(module, torch.zeros(1, 3, 5, 5)), SparseModel.of(module)
    ledger = Ledger(costs)
    ledger.charge(SPARSE, net.densities, 1)
    assert ledger.train_flops_ratio == 1.0
    before = ledger.pass_flops["forward"]
    mask = torch.zeros(5, 36, dtype=torch.bool)
    mask[0, :7] = True
    net.set_masks({"2.weight": mask})
    ledger.charge(SPARSE, net.densities, 1)
    assert ledger.pass_flops["forward"] - before == 2 * (4 * 27 * 9 + 7)


def test_a_mapping_changed_in_place_is_noticed():
    ledger, densities = Ledger(COSTS), {"a.weight": 0.5, "b.weight": 0.5}
    ledger.charge(SPARSE, densities, 1)
    densities["a.weight"] = 0.1
    ledger.charge(SPARSE, densities, 1)
    assert ledger.pass_flops["forward"] == 2 * (70 + 30)


def test_accumulation_of_micro_batches_leaves_the_total_unchanged():
    whole, parts = Ledger(COSTS), Ledger(COSTS)
    whole.charge(SPARSE, {"a.weight": 0.37}, 12)
    for _ in range(3):
        parts.charge(SPARSE, {"a.weight": 0.37}, 4)
    assert whole.train_flops == parts.train_flops


def test_resumption_is_exact():
    densities = [{"a.weight": k / 100, "b.weight": k / 40} for k in range(40)]
    whole = Ledger(COSTS)
    whole.charge_start(forward=1, backward=1, samples=3)
    for step, density in enumerate(densities):
        whole.charge(W if step % 5 == 0 else S, density, 7)
    first, second = Ledger(COSTS), Ledger(COSTS)
    first.charge_start(forward=1, backward=1, samples=3)
    for step, density in enumerate(densities):
        if step == 17:
            second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        (first if step < 17 else second).charge(W if step % 5 == 0 else S, density, 7)
    assert second.state_dict() == whole.state_dict()
    assert second.train_flops_ratio == whole.train_flops_ratio
    assert (second.samples, second.steps, second.start_flops) == (whole.samples, whole.steps, whole.start_flops)


def test_a_foreign_state_is_refused():
    with pytest.raises(ValueError, match="lacks steps"):
        Ledger(COSTS).load_state_dict({k: v for k, v in Ledger(COSTS).state_dict().items() if k != "steps"})


def test_a_step_without_a_mask_change_costs_microseconds():
    costs = [LayerCost(str(k), f"{k}.weight", (10, 10), 100) for k in range(60)]
    ledger = Ledger(costs)
    best = math.inf
    for _ in range(50):
        densities = {f"{k}.weight": 0.1 for k in range(60)}  # a new mapping with the same numbers, as in training
        begin = time.perf_counter()
        ledger.charge(SPARSE, densities, 8)
        best = min(best, time.perf_counter() - begin)
    assert best < 100e-6
