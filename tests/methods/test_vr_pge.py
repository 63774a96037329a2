"""VR-PGE and ProbMask: the estimate is unbiased, the budget holds, the final mask is exact, controls control."""

import copy
import itertools

import pytest
import torch
from torch import nn

from sparsebench.app.config.compose import compose_config
from sparsebench.cost.flops import active_macs, dense_macs, layer_costs
from sparsebench.cost.ledger import Ledger
from sparsebench.functional.distribution import uniform
from sparsebench.methods import SET, STR, VRPGE, Clock, Executor, ProbMask, RigL, Static
from sparsebench.optim.groups import Together
from sparsebench.patterns import Channels
from sparsebench.sparse import Prunable, SparseModel


def tiny():
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 1, bias=False)
    net = nn.Sequential(*layers, nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)).double()
    for layer in (net[1], net[4]):
        nn.init.normal_(layer.bias)
    return net


def objective(net, *, batch=6):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, 1, 4, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 2, (batch,), generator=generator)
    return lambda w: nn.functional.cross_entropy(torch.func.functional_call(net, dict(w), (images,)), labels)


def begin(method, net, scores=None):
    model = SparseModel.of(net, Prunable(types=["conv"]))
    values = method.learned(model) if scores is None else scores
    model.learned = {name: nn.Parameter(value.double()) for name, value in values.items()}
    method.start(model, None)
    return model


def all_draws(scores):
    """Every draw with its probability."""
    flat = torch.cat([s.reshape(-1) for s in scores.values()])
    for bits in itertools.product((False, True), repeat=len(flat)):
        mask = torch.tensor(bits)
        weight = torch.where(mask, flat, 1 - flat).prod()
        parts = mask.split([s.numel() for s in scores.values()])
        yield float(weight), {n: p.reshape(s.shape) for (n, s), p in zip(scores.items(), parts, strict=True)}


SCORES = {"0": torch.tensor([0.3, 0.6, 0.8]).double(), "3": torch.tensor([0.45, 0.7]).double()}


@pytest.mark.parametrize(
    ("estimator", "exponent", "execution"), [("two_sided", 0.5, "compact"), ("one_sided", 0.0, "masked")]
)
def test_the_gradient_of_a_step_is_unbiased_by_enumeration(estimator, exponent, execution):
    method = VRPGE(density=0.5, estimator=estimator, exponent=exponent, execution=execution)
    net = tiny()
    model, loss = begin(method, net, SCORES), objective(net)
    draws = list(all_draws(SCORES))

    estimate = {name: torch.zeros_like(score) for name, score in SCORES.items()}
    for (p, one), (q, two) in itertools.product(draws, draws):
        method.pair(model, loss, one, two).backward()
        for name, score in model.learned.items():
            estimate[name] += p * q * score.grad
            score.grad = None

    free = {name: score.clone().requires_grad_() for name, score in SCORES.items()}
    flat = torch.cat(list(free.values()))
    expected = torch.zeros((), dtype=torch.float64)
    for _, mask in draws:
        with torch.no_grad():
            value = method._run(model, loss, method.repair(model, mask), statistics=False)
        bits = torch.cat(list(mask.values()))
        expected = expected + value * torch.where(bits, flat, 1 - flat).prod()
    exact = torch.autograd.grad(expected, list(free.values()))
    for (name, score), gradient in zip(SCORES.items(), exact, strict=True):
        h = score * (1 - score)
        assert torch.allclose(estimate[name], gradient * h**exponent, atol=1e-9)


def test_weights_learn_from_the_first_draw_and_equal_masks_teach_scores_nothing():
    method = VRPGE(density=0.5)
    net = tiny()
    model, loss = begin(method, net, SCORES), objective(net)
    one = {"0": torch.tensor([True, False, True]), "3": torch.tensor([True, True])}
    two = {"0": torch.tensor([True, True, True]), "3": torch.tensor([True, False])}
    before = copy.deepcopy(net.state_dict())
    total = method.pair(model, loss, one, two)
    total.backward()
    got = {name: p.grad.clone() for name, p in net.named_parameters()}
    after = copy.deepcopy(net.state_dict())
    assert model.learned["0"].grad.ne(0).tolist() == [False, True, False]
    assert model.learned["3"].grad.ne(0).tolist() == [False, True]

    net.zero_grad()
    net.load_state_dict(before)
    alone = method.network(model).run(loss, one)
    alone.backward()
    assert torch.equal(alone.detach(), total.detach())  # the surrogate has value zero
    assert all(torch.equal(p.grad, got[name]) for name, p in net.named_parameters())
    assert all(torch.equal(value, after[name]) for name, value in net.state_dict().items())  # no trace of the second


def test_two_backwards_average_both_networks():
    net = tiny()
    one = {"0": torch.tensor([True, False, True]), "3": torch.tensor([True, True])}
    two = {"0": torch.tensor([False, True, True]), "3": torch.tensor([False, True])}
    both = VRPGE(density=0.5, backward_samples=2)
    model, loss = begin(both, net, SCORES), objective(net)
    both.pair(model, loss, one, two).backward()
    got = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    for mask in (one, two):
        (both.network(model).run(loss, mask, statistics=False) / 2).backward()
    assert all(torch.allclose(p.grad, got[name], atol=1e-14) for name, p in net.named_parameters())
    assert int(net[1].num_batches_tracked) == 2


def test_draws_are_functions_of_seed_step_and_micro_batch():
    method = VRPGE(density=0.5)
    models = [begin(method, tiny(), SCORES) for _ in range(2)]
    first, second = ([method.draw(m, *method.next_draw(m), s) for s in (0, 1) for _ in range(3)] for m in models)
    assert all(torch.equal(a[n], b[n]) for a, b in zip(first, second, strict=True) for n in a)
    assert len({str(draw) for draw in first}) > 1


def test_an_empty_layer_is_repaired_but_the_estimate_sees_the_draw():
    method = VRPGE(density=0.5)
    net = tiny()
    model, loss = begin(method, net, SCORES), objective(net)
    none = {"0": torch.zeros(3, dtype=torch.bool), "3": torch.zeros(2, dtype=torch.bool)}
    repaired = method.repair(model, none)
    assert repaired["0"].tolist() == [False, False, True]
    assert repaired["3"].tolist() == [False, True]
    full = {name: ~mask for name, mask in none.items()}
    method.pair(model, loss, none, full).backward()
    assert all(score.grad.ne(0).all() for score in model.learned.values())


@pytest.mark.parametrize("constraint", ["leq", "eq"])
def test_a_loss_of_noise_freezes_leq_below_the_budget_but_not_eq(constraint):
    method = VRPGE(density=0.5, constraint=constraint, fix_at=None, score_lr=0.05)
    net = nn.Sequential(nn.Conv2d(1, 64, 1), nn.ReLU(), nn.Conv2d(64, 64, 1), nn.ReLU(), nn.Conv2d(64, 2, 1))
    model = SparseModel.of(net, Prunable(types=["conv"], exclude=["last"]))
    model.learned = {name: nn.Parameter(value) for name, value in method.learned(model).items()}
    optimizer = method.learned_optimizer({"params": list(model.learned.values())})
    generator = torch.Generator().manual_seed(0)
    for step in range(400):
        one, two = (method.draw(model, step, sample) for sample in (0, 1))
        noise = torch.randn((), generator=generator)
        for name, score in model.learned.items():
            h = (score.detach() * (1 - score.detach())).clamp(min=1e-6)
            score.grad = noise * (one[name].float() - two[name].float()) / 2 * h**-0.5
        method.before_step(model, Clock(step, 400), optimizer)
        optimizer.step()
        method.after_step(model, Clock(step + 1, 400), optimizer)
    flat = torch.cat([score.detach() for score in model.learned.values()])
    decided = float(((flat == 0) | (flat == 1)).float().mean())
    if constraint == "leq":
        assert decided > 0.5
        assert float(flat.sum()) <= 64 + 1e-3
    else:
        assert decided < 0.5
        assert float(flat.sum()) == pytest.approx(64, abs=1e-3)


def test_cubic_budget_falls_from_all_to_the_target():
    method = ProbMask(density=0.25, fix_at=None)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    model = SparseModel.of(net)
    model.learned = {name: nn.Parameter(value) for name, value in method.learned(model).items()}
    sums = []
    for step in (10, 16, 38, 60, 90):
        with torch.no_grad():
            for score in model.learned.values():
                score.fill_(1.0)
        method.project(model, Clock(step, 100))
        sums.append(round(sum(float(s.detach().sum()) for s in model.learned.values()) / 160, 4))
        assert sum(int(m.sum()) for m in method.shown(model).values()) == round(160 * sums[-1]), "evaluation follows"
    assert sums == [1.0, 1.0, round(0.25 + 0.75 * 0.5**3, 4), 0.25, 0.25]


@pytest.mark.parametrize("final_mask", ["topk", "random", "uniform"])
def test_the_final_mask_is_exact_and_leaves_no_layer_empty(final_mask):
    method = VRPGE(density=0.4, final_mask=final_mask)
    scores = {"0": torch.zeros(3).double(), "3": torch.tensor([0.9, 0.8]).double()}
    model = begin(method, tiny(), scores)
    masks = method.choose(model)
    assert sum(int(mask.sum()) for mask in masks.values()) == 2
    assert all(mask.any() for mask in masks.values())


def test_what_has_probability_zero_stays_out():
    """Under ``leq`` scores sink below K. Filled up by index, the first layers, the costly ones, would become whole."""
    method = VRPGE(density=0.6)
    scores = {"0": torch.tensor([0.0, 0.0, 0.4]).double(), "3": torch.tensor([0.0, 0.9]).double()}
    model = begin(method, tiny(), scores)
    assert method.count(scores) == 3
    assert {name: mask.tolist() for name, mask in method.choose(model).items()} == {
        "0": [False, False, True], "3": [False, True],
    }  # fmt: skip
    assert {name: mask.tolist() for name, mask in method.shown(model).items()} == {
        "0": [False, False, True], "3": [False, True],
    }  # fmt: skip
    dead = {"0": torch.zeros(3).double(), "3": torch.tensor([0.3, 0.9]).double()}
    model = begin(method, tiny(), dead)
    kept = method.choose(model)
    assert int(kept["0"].sum()) == 1, "but for one in a layer that would be empty"
    assert kept["3"].all()


@pytest.mark.parametrize("constraint", ["leq", "eq"])
def test_no_layer_is_whole_by_the_order_of_layers(constraint):
    """Scores of 0 and 1 at random, their sum below K: what is kept has s > 0, whatever its layer."""
    method = VRPGE(density=0.5, constraint=constraint)
    generator = torch.Generator().manual_seed(0)
    scores = {str(i): (torch.rand(50, generator=generator) < 0.45).double() for i in range(6)}
    kept = method.top(scores, method.count(scores))
    assert method.count(scores) == 150
    assert all(torch.equal(kept[name], score > 0) for name, score in scores.items())


def test_the_scores_optimizer_begins_when_k_begins_to_fall():
    """Fed with zeros while every probability is 1, Adam would make its first steps several times too long."""
    method = VRPGE(density=0.4, schedule="cubic", falls_from=0.3, falls_until=0.8, fix_at=None, clip_norm=None)
    net = tiny()
    model = begin(method, net)
    weights = torch.optim.SGD(net.parameters(), lr=0.01)
    scores = method.learned_optimizer({"params": list(model.learned.values())})
    together, first = Together([weights, scores]), {}
    for step in range(20):
        together.zero_grad()
        method.loss(model, objective(net)).backward()
        method.before_step(model, Clock(step, 20), together)
        together.step()
        method.after_step(model, Clock(step + 1, 20), together)
        for name, score in model.learned.items():
            if scores.state[score] and name not in first:
                first[name] = step
    assert set(first.values()) == {7}, "6 of 20 steps are before the fall, and the first of it has moved K by 0"
    assert all(float(scores.state[score]["step"]) == 13 for score in model.learned.values())


@pytest.mark.parametrize("settings", [{"final_mask": "best_of_n", "best_of": 4}, {"final_mask": "bernoulli"}, {}])
def test_training_fixes_the_mask_and_stores_zeros_that_make_channels_dead(settings):
    method = VRPGE(density=0.5, fix_at=0.5, **settings)
    net = tiny()
    model, loss = begin(method, net), objective(net)
    weights = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    scores = method.learned_optimizer({"params": list(model.learned.values())})
    for step in range(12):
        for optimizer in (weights, scores):
            optimizer.zero_grad()
        method.loss(model, loss).backward()
        method.before_step(model, Clock(step, 12), weights)
        for optimizer in (weights, scores):
            optimizer.step()
        method.after_step(model, Clock(step + 1, 12), weights)
        assert method.fixed(model) == (step >= (6 if "best_of" in settings else 5))
    shown = method.network(model).run(loss, method.shown(model), small=True, statistics=False)
    method.finish(model)
    net.train()
    assert torch.allclose(loss({}), shown)  # the stored network, run plainly, is the small one
    for name, mask in method.shown(model).items():
        norm = net[int(name) + 1]
        assert not norm.weight[~mask].any()
        assert not norm.bias[~mask].any()
        assert not net[int(name)].weight[~mask].any()


@pytest.mark.parametrize(("backwards", "factor"), [(1, 4 / 3), (2, 2.0)])
def test_the_ledger_counts_both_forwards(backwards, factor):
    method = VRPGE(density=0.5, backward_samples=backwards, multiple=1)
    net = tiny()
    model, loss = begin(method, net, SCORES), objective(net)
    costs = layer_costs(net, torch.zeros(1, 1, 4, 4, dtype=torch.float64))
    mask = {"0": torch.tensor([True, False, True]), "3": torch.tensor([True, False])}
    other = {"0": torch.tensor([False, True, True]), "3": torch.tensor([False, True])}  # as large
    method.pair(model, loss, mask, other)
    clock, ledger = Clock(0, 10), Ledger(costs)
    ledger.charge(method.passes(model, clock), model.densities, 6, executed=method.executed(model, clock))
    ratio = active_macs(costs, method.network(model).shares(mask)) / dense_macs(costs)
    assert ledger.train_flops_ratio == pytest.approx(factor * ratio)
    assert ledger.executed_flops_ratio == pytest.approx(factor * ratio)


def test_equal_draws_are_run_once_and_counted_once():
    method = VRPGE(density=0.5)
    net = tiny()
    calls = []
    model, real = begin(method, net, SCORES), objective(net)
    mask = {"0": torch.tensor([True, False, True]), "3": torch.tensor([True, False])}

    def loss(tensors):
        calls.append(tensors)
        return real(tensors)

    total = method.pair(model, loss, mask, copy.deepcopy(mask))
    total.backward()
    assert len(calls) == 1
    assert all(not score.grad.any() for score in model.learned.values())
    passes = method.passes(model, Clock(0, 10))
    assert [len(kind) for kind in (passes.forward, passes.input, passes.weight)] == [1, 1, 1]


def test_auto_decides_once_and_remembers():
    method = VRPGE(density=0.5, execution="auto")
    net = tiny()
    model, loss = begin(method, net, SCORES), objective(net)
    for _ in range(4):
        method.loss(model, loss)
    assert bool(model.memory["execution"]["small"]) in (True, False)
    assert (method.executed(model, Clock(1, 10)) is None) == (not model.memory["execution"]["small"])


def test_a_weight_of_probability_one_stays_whole_until_the_budget_falls():
    """As in the published code: where s is 1 the relaxed mask is 1 whatever the noise, and the gradient is 0."""
    method = ProbMask(density=0.5)
    model = SparseModel.of(nn.Sequential(nn.Flatten(), nn.Linear(64, 32)))
    model.learned = {"1.weight": nn.Parameter(torch.tensor([0.0, 0.3, 0.999, 1.0]).repeat(512).reshape(32, 64))}
    for draw in range(5):
        mask = method.relaxed(model, draw, 0)["1.weight"]
        whole = model.learned["1.weight"] == 1
        assert (mask[whole] == 1).all()
        (gradient,) = torch.autograd.grad(mask.sum(), [model.learned["1.weight"]])
        assert gradient.isfinite().all()
        assert not gradient[whole].any()
        assert (gradient[model.learned["1.weight"] == 0.3] > 0).all()


def test_relaxed_masks_harden_and_reach_the_scores():
    method = ProbMask(density=0.5)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))
    model = SparseModel.of(net)
    model.learned = {name: nn.Parameter(torch.full_like(p, 0.7)) for name, p in model.params.items()}
    soft = method.relaxed(model, 0, 0)["1.weight"]
    model.memory["time"] = {"step": torch.tensor(9), "progress": torch.tensor(1.0).double()}
    hard = method.relaxed(model, 0, 0)["1.weight"]
    assert torch.minimum(hard, 1 - hard).mean() < 0.2 * torch.minimum(soft, 1 - soft).mean()
    images = torch.randn(4, 1, 4, 4)
    method.loss(model, lambda w: torch.func.functional_call(net, dict(w), (images,)).square().mean()).backward()
    assert all(score.grad.abs().sum() > 0 for score in model.learned.values())
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize(
    ("kind", "settings", "reason"),
    [
        (VRPGE, {"density": 0.0}, "density 0 is impossible"),
        (VRPGE, {"level": "layer"}, "level='layer' must be one of filter, weight"),
        (VRPGE, {"backward_samples": 3}, "backward_samples=3 must be one of 1, 2"),
        (VRPGE, {"estimator": "reinforce"}, "estimator='reinforce' must be one of"),
        (VRPGE, {"exponent": 2.0}, "exponent=2 must be in"),
        (VRPGE, {"final_mask": "best_of_n", "fix_at": None}, "needs best_of of 1 or more, and fix_at above 0"),
        (VRPGE, {"schedule": "linear"}, "schedule='linear' must be one of constant, cubic"),
        (VRPGE, {"falls_from": 0.7}, "0 <= from < until <= 1"),
        (VRPGE, {"execution": "fast"}, "execution='fast' must be one of compact, masked, auto"),
        (ProbMask, {"samples": 0}, "samples >= 1"),
        (ProbMask, {"score_lr": -1.0}, "score_lr >= 0"),
    ],
)
def test_bad_settings_are_refused(kind, settings, reason):
    with pytest.raises(ValueError, match=reason):
        kind(**settings)


def test_budgets_and_networks_that_cannot_be_are_refused_before_training():
    with pytest.raises(ValueError, match=r"keeps 0 of 5, fewer than one in each of 2 layers: choose a sparsity of at"):
        begin(VRPGE(density=0.1), tiny())
    grouped = nn.Sequential(nn.Conv2d(1, 4, 1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    with pytest.raises(ValueError, match="around 1: GroupNorm"):
        VRPGE(density=0.5).learned(SparseModel.of(grouped, Prunable(types=["conv"], exclude=["last"])))
    with pytest.raises(ValueError, match=r"SparseModel.of\(module\)"):
        VRPGE(density=0.5).learned(SparseModel(dict(tiny().named_parameters())))


# -- other methods with whole channels --------------------------------------------------------------------------------


def test_methods_of_channels_train_the_small_network():
    nets = [tiny(), tiny()]
    for net, execution in zip(nets, ("compact", "masked"), strict=True):
        method = Static(density=0.5, distribution=uniform, pattern=Channels())
        model, loss = SparseModel.of(net, Prunable(types=["conv"]), seed=3), objective(net)
        executor = Executor(method, model, execution)
        method.start(model, None)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        for step in range(4):
            optimizer.zero_grad()
            executor.loss(loss, Clock(step, 4)).backward()
            method.before_step(model, Clock(step, 4), optimizer)
            optimizer.step()
            method.after_step(model, Clock(step + 1, 4), optimizer)
        shares = executor.passes(Clock(1, 4)).forward[0]
        assert shares["3.weight"] == pytest.approx(float(model.masks["0.weight"].float().mean()) * 0.5, abs=0.2)
        assert (executor.executed(Clock(1, 4)) is None) == (execution == "masked")
        executor.finish()
        dead = ~model.masks["0.weight"].reshape(3, -1).any(1)
        assert dead.any()
        assert not net[1].bias[dead].any()
    assert all(torch.allclose(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))


def test_methods_that_no_back_end_can_run_are_refused():
    with pytest.raises(ValueError, match="needs whole output channels, which Static does not prune"):
        Executor(Static(density=0.5), SparseModel.of(tiny()), "compact")
    with pytest.raises(ValueError, match="STR computes its own zeros"):
        Executor(STR(density=0.5, pattern=Channels()), SparseModel.of(tiny()), "compact")
    with pytest.raises(ValueError, match="execution='small' must be one of compact, masked, auto"):
        Executor(Static(density=0.5), SparseModel.of(tiny()), "small")
    with pytest.raises(ValueError, match="ProbMask runs at full size only"):
        Executor(ProbMask(density=0.5), SparseModel.of(tiny()), "compact")
    model = SparseModel.of(tiny(), Prunable(types=["conv"]))
    rigl = RigL(density=0.5, pattern=Channels(), distribution=uniform, every=3)
    executor = Executor(rigl, model, "compact")
    rigl.start(model, None)
    with pytest.raises(ValueError, match="RigL needs the gradients of dead channels"):
        executor.cost(Clock(0, 30))
    Executor(SET(density=0.5, pattern=Channels()), SparseModel.of(tiny(), Prunable(types=["conv"])), "auto")


@pytest.mark.parametrize("net", ["resnet32", "vgg19"])
@pytest.mark.parametrize("control", ["", "_random", "_uniform", "_shuffled", "_dense"])
def test_presets_are_what_they_say(net, control):
    config = compose_config([f"experiment=vr_pge_2021/cifar10_{net}{control}"])
    method = config["method"]
    assert config["model"]["name"] == net
    assert config["optimizer"]["nesterov"] is False
    assert config["trainer"]["max_epochs"] == 340
    assert (method["_target_"] == "sparsebench.methods.Dense") == (control == "_dense")
    if control != "_dense":
        fixed = {"_random": (0, "random", False), "_uniform": (0, "uniform", False), "_shuffled": (0.88, "topk", True)}
        assert (method["fix_at"], method["final_mask"], method["shuffle"]) == fixed.get(control, (0.88, "topk", False))
        assert method["density"] == 0.5


@pytest.mark.parametrize(("net", "schedule", "most"), [("resnet32", "constant", 0.1), ("vgg19", "cubic", 0.6)])
def test_short_presets_leave_time_to_train_the_final_network(net, schedule, most):
    config = compose_config([f"experiment=vr_pge_2021/cifar10_{net}_short"])
    method = config["method"]
    assert (config["model"]["name"], config["sparsity"], method["density"]) == (net, 0.5, 0.5)
    assert (method["schedule"], method["final_mask"], method["shuffle"]) == (schedule, "topk", False)
    assert 0 < method["fix_at"] <= most
    assert schedule == "constant" or method["falls_until"] <= method["fix_at"], "K has fallen before masks are fixed"
    assert config["trainer"]["max_epochs"] * config["dataset"]["limit"] <= 64 * 5000
