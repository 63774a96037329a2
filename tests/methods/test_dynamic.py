"""SET, RigL, DST-EE without Lightning: golden updates, schedules, exact counts."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from noise import drive, random_layers
from torch import nn

from sparsebench.functional import select
from sparsebench.functional.distribution import uniform
from sparsebench.functional.schedule import cosine
from sparsebench.methods import DSTEE, SET, Clock, Probe, RigL
from sparsebench.sparse import SparseModel, digest

NO_PROBE = Probe(lambda number: [], lambda weights: torch.zeros(()))


def constant(start, end, progress):
    return start


def layer(values, active):
    """A net of one parameter with a given mask."""
    parameter = nn.Parameter(torch.tensor(values))
    net = SparseModel({"w": parameter})
    net.set_masks({"w": torch.tensor([i in active for i in range(len(values))])}, clear=False)
    return net, parameter


def step_with(method, net, optimizer, gradients, clock):
    """One optimizer step as the engine makes it, with these gradients."""
    for name, parameter in net.params.items():
        parameter.grad = gradients[name].clone()
    method.before_step(net, clock, optimizer)
    optimizer.step()
    method.after_step(net, clock.after, optimizer)


def normal_gradients(net, step):
    generator = torch.Generator().manual_seed(step)
    return {n: torch.randn(p.shape, generator=generator) for n, p in net.params.items()}


def two_layers():
    torch.manual_seed(0)
    shapes = {"conv": (6, 4, 3, 3), "fc": (10, 30)}
    return {name: nn.Parameter(torch.randn(shape)) for name, shape in shapes.items()}


def ones_of(net):
    return net.masks["w"].nonzero().reshape(-1).tolist()


# -- golden updates (worked by hand; reference: the acquisition of Huang et al. 2023 on eight weights) -----------------

WEIGHTS = [0.9, -0.1, 0.5, 0.05, 0.0, 0.0, 0.0, 0.0]
GRADIENT = torch.tensor([0.5, 0.028, 0.4, 0.012, 0.030, -0.025, 0.010, -0.004])
COUNTS = torch.tensor([3, 3, 3, 1, 2, 1, 0, 0], dtype=torch.int32)


def golden_net():
    return layer(WEIGHTS, {0, 1, 2, 3})


def golden_update(method, step=1000):
    net, parameter = golden_net()
    net.memory["active"] = {"w": COUNTS.clone()}
    net.memory["gradient"] = {"w": GRADIENT.clone()}
    method.rewire(net, Clock(step, 10_000), None)
    return net, parameter


def test_rigl_golden_update():
    net, parameter = golden_update(RigL(drop_fraction=0.5, drop_schedule=constant))
    assert ones_of(net) == [0, 1, 2, 4]
    # 1 was dropped and regrown: it keeps its value; 4 is new: it starts at zero; 3 is gone
    assert parameter.tolist() == pytest.approx([0.9, -0.1, 0.5, 0, 0, 0, 0, 0])


def test_rigl_without_the_just_dropped():
    net, _ = golden_update(RigL(drop_fraction=0.5, drop_schedule=constant, exclude_dropped=True))
    assert ones_of(net) == [0, 2, 4, 5]


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 0.5]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_rigl_runs_the_published_rule(seed, share, exclude):
    """``functional.select.drop_and_grow`` is what a RigL update does to every layer, and to its strides."""
    random = torch.Generator().manual_seed(seed)
    net = SparseModel({n: nn.Parameter(p.detach().round(decimals=0)) for n, p in two_layers().items()})
    net.set_masks({n: torch.rand(p.shape, generator=random) < 0.4 for n, p in net.params.items()})
    slopes = {n: torch.randn(p.shape, generator=random).round(decimals=0) for n, p in net.params.items()}
    method = RigL(density=0.4, drop_fraction=share, drop_schedule=constant, exclude_dropped=exclude)
    wanted = {
        n: select.drop_and_grow(
            m, net.params[n].abs(), slopes[n].abs(), method.dropped(net, n, share), allow_regrow=not exclude
        )
        for n, m in net.masks.items()
    }
    net.memory["gradient"] = slopes
    method.rewire(net, Clock(10, 100), None)
    assert all(torch.equal(net.masks[n], mask) for n, mask in wanted.items())


def test_rigl_may_reset_what_is_regrown():
    net, parameter = golden_update(RigL(drop_fraction=0.5, drop_schedule=constant, regrown_keeps_value=False))
    assert ones_of(net) == [0, 1, 2, 4]
    assert parameter.tolist() == pytest.approx([0.9, 0, 0.5, 0, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ("c", "eps", "time", "grown"),
    [
        (0.0, 1.0, 1000, [1, 4]),
        (1e-3, 1.0, 1000, [1, 4]),
        (5e-3, 1.0, 1000, [5, 6]),
        (1e-2, 1.0, 1000, [6, 7]),
        (1e-4, 0.01, 1000, [6, 7]),
        (5e-3, 1.0, 2, [1, 4]),
        (5e-3, 1.0, 1, [1, 4]),
    ],
)
def test_dst_ee_golden_update(c, eps, time, grown):
    net, _ = golden_update(DSTEE(c=c, eps=eps, drop_fraction=0.5, drop_schedule=constant), time)
    assert ones_of(net) == sorted([0, 2, *grown])
    active = torch.tensor([i in {0, 2, *grown} for i in range(8)])
    assert torch.equal(net.memory["active"]["w"], COUNTS + active), "N grows by the new mask, once per update"


def test_dst_ee_time_in_updates():
    method = DSTEE(c=1.0, drop_fraction=0.5, drop_schedule=constant, time_unit="update", every=1000)
    first, _ = golden_update(method, 1000)  # ln 1 = 0: pure RigL
    assert ones_of(first) == [0, 1, 2, 4]
    second, _ = golden_update(method, 2000)
    assert ones_of(second) == [0, 2, 6, 7]


@pytest.mark.parametrize("method", [RigL, SET])
def test_floor_and_ceiling_of_what_is_dropped(method):
    for rounding, changed in (("floor", 1), ("ceil", 2)):
        net, _ = layer([5.0, 4.0, 3.0, 2.0, 1.0, 0.0, 0.0, 0.0], range(5))
        net.memory["gradient"] = {"w": torch.tensor([0.0, 0, 0, 0, 0, 1, 2, 3])}
        options = {"drop_fraction": 0.3, "drop_schedule": constant, "drop_count": rounding, "exclude_dropped": True}
        method(**options).rewire(net, Clock(1, 10), None)  # 0.3 * 5 = 1.5
        assert int((~net.masks["w"][:5]).sum()) == changed
    # 0.3 * 10 is a little more than 3 in floating point: the ceiling is 3 all the same
    net, _ = layer([float(i) for i in range(20)], range(10))
    SET(drop_fraction=0.3, drop_schedule=constant, drop_count="ceil", exclude_dropped=True).rewire(
        net, Clock(1, 10), None
    )
    assert int((~net.masks["w"][:10]).sum()) == 3


# -- c = 0 is RigL -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replaces_step", [True, False])
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_dst_ee_without_exploration_is_rigl_bit_for_bit(kind, replaces_step):
    options = {
        "density": 0.3, "every": 4, "until": 1.0, "drop_fraction": 0.5, "drop_fraction_end": 0.005,
        "replaces_step": replaces_step,
    }  # fmt: skip
    seen = []
    for method in (RigL(**options), DSTEE(c=0.0, **options)):
        params = two_layers()
        net = SparseModel(params, seed=7)
        method.start(net, NO_PROBE)
        optimizer = {
            "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3),
            "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
        }[kind](list(params.values()))
        trace = []
        for step in range(20):
            step_with(method, net, optimizer, normal_gradients(net, step), Clock(step, 20))
            state = {f"{i}/{k}": v for i, s in enumerate(optimizer.state.values()) for k, v in s.items()}
            trace.append((net.version, net.digest(), digest(params), digest(state)))
        seen.append(trace)
    assert seen[0] == seen[1]
    assert seen[0][-1][0] >= 4, "at least three updates after the first masks"


# -- when --------------------------------------------------------------------------------------------------------------


def shares_over(method, total):
    """Train on noise and return {step of an update: share dropped}."""
    shares = {}
    params = two_layers()
    net = SparseModel(params)
    method.start(net, NO_PROBE)
    optimizer = torch.optim.SGD(list(params.values()), lr=0.01)
    for step in range(total):
        version = net.version
        step_with(method, net, optimizer, normal_gradients(net, step), Clock(step, total))
        if net.version > version:
            shares[step + (0 if method.replaces_step else 1)] = RECORDED[-1]
    return shares


RECORDED = []


def recorded(start, end, progress):
    RECORDED.append(cosine(start, end, progress))
    return RECORDED[-1]


def test_rigl_updates_from_every_to_the_end_inclusive():
    shares = shares_over(RigL(density=0.2, every=10, until=0.75, drop_schedule=recorded), 80)
    assert list(shares) == [10, 20, 30, 40, 50, 60]
    assert shares[30] == pytest.approx(0.15)  # half way
    assert shares[60] == pytest.approx(0.0)


def test_dst_ee_updates_up_to_the_last_step_but_not_after_it():
    shares = shares_over(DSTEE(c=1e-3, density=0.2, every=10, drop_schedule=recorded), 60)
    assert list(shares) == [10, 20, 30, 40, 50]  # what grew after the last step would never train
    assert shares[30] == pytest.approx(0.2525)


def test_a_period_below_one_is_a_share_of_the_budget():
    short = shares_over(SET(density=0.2, every=0.1, until=0.5, drop_schedule=recorded), 40)
    long = shares_over(SET(density=0.2, every=0.1, until=0.5, drop_schedule=recorded), 80)
    assert list(short) == [4, 8, 12, 16, 20]
    assert list(long) == [8, 16, 24, 32, 40]
    assert list(short.values()) == pytest.approx(list(long.values()))


# -- what an update does to weights and moments ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_rigl_update_replaces_the_step(kind):
    params = two_layers()
    net = SparseModel(params)
    method = RigL(density=0.3, every=5)
    method.start(net, NO_PROBE)
    bias = nn.Parameter(torch.ones(3))
    everything = [*params.values(), bias]
    optimizer = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
    }[kind](everything)
    for step in range(5):
        bias.grad = torch.ones(3)
        step_with(method, net, optimizer, normal_gradients(net, step), Clock(step, 100))
    weights = {n: p.detach().clone() for n, p in params.items()}
    masks = {n: m.clone() for n, m in net.masks.items()}
    moments = {
        p: {k: v.clone() for k, v in optimizer.state[p].items() if isinstance(v, torch.Tensor)} for p in everything
    }
    bias_before = bias.detach().clone()

    bias.grad = torch.ones(3)
    step_with(method, net, optimizer, normal_gradients(net, 5), Clock(5, 100))  # the update

    changed = 0
    for name, p in params.items():
        old, new = masks[name], net.masks[name]
        changed += int((old != new).sum())
        assert torch.equal(p.detach(), weights[name] * (old & new)), "survivors untouched, all others zero"
        for key, value in moments[p].items():
            expected = value * (old & new) if value.shape == p.shape else value
            assert torch.equal(optimizer.state[p][key], expected)
    assert changed > 0
    assert torch.equal(bias.detach(), bias_before), "the step is replaced for every parameter"
    assert all(torch.equal(optimizer.state[bias][k], v) for k, v in moments[bias].items())


def test_an_update_after_the_step_uses_the_gradient_of_that_step():
    net, parameter = layer([4.0, 3.0, 2.0, 1.0, 0.0, 0.0], {0, 1, 2, 3})
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    method = RigL(density=0.5, every=2, until=1.0, drop_fraction=0.25, drop_schedule=constant, replaces_step=False)
    step_with(method, net, optimizer, {"w": torch.tensor([0.0, 0, 0, 0, 9.0, 0])}, Clock(0, 10))
    assert net.version == 1
    step_with(method, net, optimizer, {"w": torch.tensor([1.0, 1, 1, 1, 0, 0.5])}, Clock(1, 10))
    # the step moves the active weights by 0.1, then 3 (now 0.9) goes; it may come back as its gradient is the largest
    assert ones_of(net) == [0, 1, 2, 3]
    assert parameter.tolist() == pytest.approx([3.9, 2.9, 1.9, 0.9, 0, 0])
    step_with(method, net, optimizer, {"w": torch.zeros(6)}, Clock(2, 10))
    step_with(method, net, optimizer, {"w": torch.tensor([1.0, 1, 1, 0.1, 0, 0.5])}, Clock(3, 10))
    assert ones_of(net) == [0, 1, 2, 5]
    assert parameter.tolist() == pytest.approx([3.8, 2.8, 1.8, 0, 0, 0])


@pytest.mark.parametrize("replaces_step", [True, False])
def test_growth_may_look_at_the_mean_gradient_of_several_steps(replaces_step):
    net, parameter = golden_net()
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    method = DSTEE(
        c=5e-3, density=0.5, every=1000, drop_fraction=0.5, drop_schedule=constant, score_batches=2,
        replaces_step=replaces_step,
    )  # fmt: skip
    net.memory["active"] = {"w": COUNTS.clone()}
    last = 1000 if replaces_step else 999  # the step, counted from zero, at or after which the update falls
    silent = {"w": torch.full((8,), 9.0)}
    step_with(method, net, optimizer, silent, Clock(last - 2, 10_000))  # not looked at
    assert "gradient" not in net.memory
    step_with(method, net, optimizer, {"w": 0.5 * GRADIENT}, Clock(last - 1, 10_000))
    step_with(method, net, optimizer, {"w": 1.5 * GRADIENT}, Clock(last, 10_000))
    assert ones_of(net) == [0, 2, 5, 6], "the sum instead of the mean would grow 4 and 5"
    assert "gradient" not in net.memory


def test_stale_values_do_not_return_with_a_regrown_connection():
    net, parameter = layer([4.0, 1.0, 0.0], {0, 1})
    optimizer = torch.optim.SGD([parameter], lr=0.0, momentum=0.9)
    method = RigL(density=0.5, every=1, until=1.0, drop_fraction=0.5, drop_schedule=constant, exclude_dropped=True)
    step_with(method, net, optimizer, {"w": torch.ones(3)}, Clock(0, 10))  # fills the momentum
    step_with(method, net, optimizer, {"w": torch.tensor([0.0, 0, 1])}, Clock(1, 10))
    assert ones_of(net) == [0, 2]
    with torch.no_grad():
        parameter[1] = 5.0
    step_with(method, net, optimizer, {"w": torch.tensor([0.0, 1, 0])}, Clock(2, 10))
    assert ones_of(net) == [0, 1]
    assert parameter.tolist() == [4.0, 0.0, 0.0]
    assert optimizer.state[parameter]["momentum_buffer"].tolist() == [1.0, 0.0, 0.0]


# -- counts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [
        SET(density=0.13, every=1, until=1.0),
        RigL(density=0.13, every=1, until=1.0),
        RigL(density=0.13, every=1, until=1.0, replaces_step=False, exclude_dropped=True),
        DSTEE(c=1e-2, density=0.13, every=1, drop_fraction=0.5),
    ],
    ids=["set", "rigl", "rigl-itop", "dst_ee"],
)
def test_counts_are_exact_over_a_thousand_updates(method):
    torch.manual_seed(0)
    params = {"a": nn.Parameter(torch.randn(7, 9)), "b": nn.Parameter(torch.randn(5, 3, 3, 3))}
    net = SparseModel(params)
    method.start(net, NO_PROBE)
    counts = dict(net.counts)
    assert sum(counts.values()) == round(0.13 * (63 + 135))
    optimizer = torch.optim.SGD(list(params.values()), lr=0.01, momentum=0.9)
    for step in range(1001):
        step_with(method, net, optimizer, normal_gradients(net, step), Clock(step, 1100))
        assert net.counts == counts
    assert net.version >= 1001
    assert {n: int(m.sum()) for n, m in net.masks.items()} == counts
    assert all(not p.detach()[~net.masks[n]].any() for n, p in params.items())


def test_all_zero_gradients_grow_what_was_not_kept():
    net, _ = layer([float(9 - i) for i in range(6)] + [0.0] * 6, range(6))
    net.memory["gradient"] = {"w": torch.zeros(12)}
    RigL(drop_fraction=0.5, drop_schedule=constant, exclude_dropped=True).rewire(net, Clock(1, 10), None)
    assert ones_of(net) == [0, 1, 2, 6, 7, 8]


@pytest.mark.parametrize("method", [SET, RigL])
def test_a_full_layer_has_nowhere_to_grow(method):
    """Layers that the distribution fills must not stop training, whatever may regrow."""
    net, parameter = layer([3.0, 2.0, 1.0], range(3))
    net.memory["gradient"] = {"w": torch.ones(3)}
    method(drop_fraction=0.9, drop_schedule=constant, exclude_dropped=True).rewire(net, Clock(1, 10), None)
    assert ones_of(net) == [0, 1, 2]
    assert parameter.tolist() == [3.0, 2.0, 1.0]


def test_random_growth_is_a_function_of_seed_and_step():
    def masks(seed, step):
        net = SparseModel(two_layers(), seed=seed)
        method = SET(density=0.2)
        method.start(net, NO_PROBE)
        method.rewire(net, Clock(step, 1000), None)
        return net.digest()

    assert masks(0, 100) == masks(0, 100)
    assert len({masks(0, 100), masks(0, 200), masks(1, 100)}) == 3


@settings(max_examples=25, deadline=None)
@given(st.floats(1 / 24, 1.0), st.floats(0, 0.95), st.integers(0, 1000), st.booleans())  # below, b keeps none: refused
def test_any_update_keeps_the_budget(density, fraction, seed, exclude):
    torch.manual_seed(seed)
    net = SparseModel({"a": nn.Parameter(torch.randn(6, 10)), "b": nn.Parameter(torch.randn(4, 2, 3))}, seed=seed)
    method = SET(
        density=density, distribution=uniform, drop_fraction=fraction, drop_schedule=constant, exclude_dropped=exclude
    )
    method.start(net, NO_PROBE)
    counts = dict(net.counts)
    method.rewire(net, Clock(1, 10), None)
    assert net.counts == counts


# -- exploration -------------------------------------------------------------------------------------------------------


def explored(c, eps, updates=40, counter_update="mask_update"):
    """Share of 2,000 weights ever active, under heavy-tailed gradients of scale 1e-3."""
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(2000))
    net = SparseModel({"w": parameter})
    method = DSTEE(c=c, eps=eps, density=0.05, every=1, drop_fraction=0.5, counter_update=counter_update)
    method.start(net, NO_PROBE)
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    scale = torch.randn(2000, generator=torch.Generator().manual_seed(1)).exp() * 1e-3
    for step in range(updates):
        step_with(method, net, optimizer, {"w": scale * normal_gradients(net, step)["w"]}, Clock(step, updates))
        with torch.no_grad():
            parameter[net.masks["w"] & (parameter == 0)] = 1e-4  # what has grown starts to learn
    counted = net.memory["active"]["w"]
    assert torch.equal(counted > 0, net.memory["fired"]["w"])
    return float(net.memory["fired"]["w"].float().mean())


def test_exploration_rises_with_c_within_its_bound():
    rates = [explored(c, 1.0) for c in (0.0, 1e-4, 1e-3, 1e-2)]
    assert rates == sorted(rates)
    assert rates[0] < 0.3 < rates[-1]
    bound = 0.05 * (1 + sum(cosine(0.5, 0.005, u / 40) for u in range(1, 41)))
    assert rates[-1] <= bound
    assert explored(1e-6, 1e-3) > explored(1e-6, 1.0), "c / eps governs what was never active"


def test_counters_add_up_the_masks():
    for counter_init in ("initial_mask", "zeros"):
        net, parameter = layer([1.0] * 10, {0, 1, 2})
        method = DSTEE(c=1e-2, density=0.3, every=2, counter_init=counter_init)
        method.start(net, NO_PROBE)
        total = net.masks["w"].to(torch.int32) * (counter_init == "initial_mask")
        optimizer = torch.optim.SGD([parameter], lr=0.1)
        for step in range(10):
            step_with(method, net, optimizer, normal_gradients(net, step), Clock(step, 100))
            if step % 2:
                total = total + net.masks["w"]
        assert torch.equal(net.memory["active"]["w"], total)


def test_counters_may_follow_steps():
    net, parameter = layer([1.0] * 10, {0, 1, 2})
    method = DSTEE(c=1e-2, density=0.3, every=3, counter_update="step", counter_init="zeros")
    method.start(net, NO_PROBE)
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    total = torch.zeros(10, dtype=torch.int32)
    for step in range(9):
        total += net.masks["w"]  # the mask with which the step was made
        step_with(method, net, optimizer, normal_gradients(net, step), Clock(step, 100))
    assert torch.equal(net.memory["active"]["w"], total)


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (SET, {"drop_fraction": 1.0}, r"drop_fraction 1 is impossible: choose a share in \[0, 1\)"),
        (SET, {"every": 0}, "every must be > 0"),
        (SET, {"until": 1.5}, r"until in \(0, 1\]"),
        (RigL, {"score_batches": 0}, "score_batches 0 must lie between 1 and every"),
        (RigL, {"score_batches": 200, "every": 100}, "score_batches 200"),
        (RigL, {"density": 1.5}, "choose a sparsity of at least 0 and below 1"),
        (RigL, {"density": 0.0}, "sparsity 1"),
        (DSTEE, {"c": -1.0}, "c must be >= 0 and eps > 0"),
        (DSTEE, {"c": 0.0, "eps": 0.0}, "c must be >= 0 and eps > 0"),
        (SET, {"drop_count": "round"}, "drop_count='round' must be one of floor, ceil"),
        (DSTEE, {"c": 1e-3, "time_unit": "updates"}, "time_unit='updates'"),
        (DSTEE, {"c": 1e-3, "counter_init": "ones"}, "counter_init='ones'"),
        (DSTEE, {"c": 1e-3, "counter_update": "epoch"}, "counter_update='epoch'"),
    ],
)
def test_says_what_is_wrong(method, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        method(**options)
    assert "\n" not in str(caught.value)


def test_c_has_no_default():
    with pytest.raises(TypeError, match="'c'"):
        DSTEE()


def test_defaults_are_those_of_the_papers():
    rigl, ee = RigL(), DSTEE(c=0.0)
    assert (rigl.every, rigl.until, rigl.drop_fraction, rigl.drop_fraction_end, rigl.replaces_step) == (
        100, 0.75, 0.3, 0.0, True,
    )  # fmt: skip
    assert (ee.every, ee.until, ee.drop_fraction, ee.drop_fraction_end, ee.eps, ee.replaces_step) == (
        1000, 1.0, 0.5, 0.005, 1.0, False,
    )  # fmt: skip
    assert math.isclose(ee.drop_schedule(0.5, 0.005, 0.5), 0.2525)


@pytest.mark.parametrize(("every", "taken"), [(1, 75), (2, 37)])
def test_updates_that_leave_few_steps_to_the_optimizer_are_named(every, taken):
    """RigL's update takes the place of a step: with every=1, until 0.75, 25 of 100 steps train."""
    with pytest.warns(UserWarning, match=rf"take the place of {taken} of 100 optimizer steps with every={every}"):
        steps = sum(1 for _ in drive(RigL(density=0.5, every=every), random_layers(), 100))
    assert steps == 100


# -- what the published code of SET does ------------------------------------------------------------------------------


def test_each_sign_loses_the_same_share():
    values = [0.1, 0.2, 0.3, 0.4, -1.0, -2.0, -3.0, -4.0, 0.0, 0.0]
    net, _ = layer(values, set(range(8)))
    method = SET(density=0.8, drop_fraction=0.5, drop_schedule=constant, drop_by_sign=True, distribution=uniform)
    assert ones_of_mask(method.drop(net, Clock(0, 10), {})["w"]) == [2, 3, 6, 7]
    plain = SET(density=0.8, drop_fraction=0.5, drop_schedule=constant, distribution=uniform)
    assert ones_of_mask(plain.drop(net, Clock(0, 10), {})["w"]) == [4, 5, 6, 7]


def ones_of_mask(mask):
    return mask.nonzero().reshape(-1).tolist()


def test_grown_weights_may_be_drawn():
    parameter = nn.Parameter(torch.ones(200, 300))
    net = SparseModel({"w": parameter})
    method = SET(
        density=0.5, drop_fraction=0.4, drop_schedule=constant, distribution=uniform, grown_weights="he_uniform",
        regrown_keeps_value=False,
    )  # fmt: skip
    method.start(net, NO_PROBE)
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    trained = float(parameter.detach()[net.masks["w"]][0])
    method.rewire(net, Clock(1, 10), optimizer)
    drawn = parameter.detach()[net.masks["w"] & (parameter != trained)]
    assert len(drawn) == round(0.4 * 30_000)
    bound = math.sqrt(6 / 300)
    assert drawn.abs().max() <= bound
    assert drawn.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
    assert not parameter.detach()[~net.masks["w"]].any()
    assert not optimizer.state[parameter]["momentum_buffer"][parameter != trained].any()


def test_an_unknown_law_of_grown_weights_is_refused():
    with pytest.raises(ValueError, match=r"grown_weights.*ones.*zero, glorot"):
        SET(density=0.5, grown_weights="ones")
