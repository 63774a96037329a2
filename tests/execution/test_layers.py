"""Networks whose masked layers run through sparse products, against the same networks with dense ones."""

import contextlib
import copy
import json

import pytest
import torch
from torch import nn
from torch.nn import functional

from sparsebench.execution import choice as choice_module
from sparsebench.execution import csr, direct
from sparsebench.execution.choice import Choices
from sparsebench.execution.direct.walk import Shape
from sparsebench.execution.layers import SparseLayers
from sparsebench.execution.layout import innermost
from sparsebench.methods import GMP, SET, Clock, Probe, RigL, Static
from sparsebench.sparse import SparseModel

pytestmark = pytest.mark.skipif(not direct.available(), reason="needs a C++ compiler")


@pytest.fixture(autouse=True)
def _times_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(choice_module, "cache_folder", lambda: tmp_path)
    choice_module._known.cache_clear()
    choice_module._file.cache_clear()
    yield
    choice_module._known.cache_clear()
    choice_module._file.cache_clear()


class Net(nn.Module):
    """Convolutions, one of them with groups, norms, pooling of all kinds, a residual sum, linear layers."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.two = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.down = nn.Conv2d(8, 12, 1, stride=2)
        self.point = nn.Conv2d(12, 12, 1)
        self.pools = nn.Sequential(nn.MaxPool2d(2), nn.AvgPool2d(2, padding=1), nn.AdaptiveAvgPool2d(2))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(48, 20), nn.ReLU(), nn.Linear(20, 10))

    def forward(self, x):
        x = functional.relu(self.norm(self.one(x)))
        x = x + self.grouped(self.two(x))
        return self.head(self.pools(self.point(self.down(x))))


def masked_pair(dtype=torch.float64, density=0.3):
    torch.manual_seed(0)
    nets = [Net().to(dtype) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    states = [SparseModel.of(net) for net in nets]
    masks = {name: torch.rand(p.shape) < density for name, p in states[0].params.items()}
    for state in states:
        state.set_masks(masks)
    return nets, states


@pytest.mark.parametrize("backend", ["masked", "direct", "csr", "auto"])
@pytest.mark.parametrize("images", [1, 5, 33])
def test_a_network_trains_alike(backend, images):
    nets, states = masked_pair()
    runner = SparseLayers(nets[0], states[0].params, backend)
    optimizers = [torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=1e-3) for net in nets]
    for _ in range(3):
        x, labels = torch.randn(images, 3, 16, 16, dtype=torch.float64), torch.randint(0, 10, (images,))
        for net, state, optimizer, sparse in zip(nets, states, optimizers, (True, False), strict=True):
            with runner.installed(state.masks) if sparse else contextlib.nullcontext():
                loss = functional.cross_entropy(net(x), labels)
            optimizer.zero_grad()
            loss.backward()
            state.mask_gradients_()
            optimizer.step()
    for (name, one), two in zip(nets[0].state_dict().items(), nets[1].state_dict().values(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
    assert "forward" not in {key for module in nets[0].modules() for key in vars(module)}


def test_what_runs_how():
    (net, _), (state, _) = masked_pair(torch.float32)
    x = torch.randn(4, 3, 16, 16)
    sparse = {"one.weight", "two.weight", "down.weight", "point.weight", "head.1.weight", "head.3.weight"}
    runner = SparseLayers(net, state.params, "direct")
    assert set(runner.layers) == sparse
    assert runner.refused == {"grouped": "has 4 groups"}
    with runner.installed(state.masks):
        net(x)
    assert runner.chosen == dict.fromkeys(sparse, "direct")
    runner = SparseLayers(net, state.params, "csr")
    with runner.installed(state.masks):
        net(x)
    flat = {"point.weight", "head.1.weight", "head.3.weight"}
    assert {name for name, way in runner.chosen.items() if way == "csr"} == flat
    assert {way for name, way in runner.chosen.items() if name not in flat} == {"masked"}


def test_a_back_end_that_does_not_exist():
    with pytest.raises(ValueError, match="execution='fast' is unknown: choose one of masked, direct, csr, auto"):
        SparseLayers(nn.Linear(2, 2), {}, "fast")


def test_dense_gradients_where_they_are_needed():
    (net, _), (state, _) = masked_pair(torch.float32)
    runner = SparseLayers(net, state.params, "direct")
    x = torch.randn(4, 3, 16, 16)
    for dense in (True, False):
        net.zero_grad()
        with runner.installed(state.masks, dense_gradient=dense):
            net(x).sum().backward()
        outside = net.two.weight.grad[~state.masks["two.weight"]]
        assert bool(outside.any()) is dense


@pytest.mark.parametrize("train", [True, False])
def test_norms_and_pools_keep_the_layout(train):
    (net, other), (state, _) = masked_pair(torch.float64)
    net.train(train)
    other.train(train)
    x = torch.randn(6, 3, 16, 16, dtype=torch.float64)
    seen = []
    net.norm.register_forward_hook(lambda module, inputs, out: seen.append(out))
    net.pools[0].register_forward_hook(lambda module, inputs, out: seen.append(out))
    with SparseLayers(net, state.params, "direct").installed(state.masks):
        out = net(x)
    assert all(innermost(value) for value in seen)
    torch.testing.assert_close(out, other(x))
    torch.testing.assert_close(net.norm.running_var, other.norm.running_var)


def test_autocast_and_half_weights_do_not_break():
    (net, other), (state, _) = masked_pair(torch.float32)
    x = torch.randn(16, 3, 16, 16)
    with SparseLayers(net, state.params, "direct").installed(state.masks), torch.autocast("cpu", torch.bfloat16):
        out = net(x)
    torch.testing.assert_close(out, other(x), rtol=0.05, atol=0.05)
    net.bfloat16()
    with SparseLayers(net, dict(net.named_parameters()), "direct").installed(state.masks):
        assert net(x.bfloat16()).dtype == torch.bfloat16


class Digits:
    """A perceptron on fixed noise, in a bare loop."""

    def __init__(self, backend, method):
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 5)).double()
        self.state = SparseModel.of(self.net, seed=3)
        self.method = method
        self.runner = SparseLayers(self.net, self.state.params, backend)
        self.ways = set()

    def train(self, steps):
        generator = torch.Generator().manual_seed(1)
        optimizer = torch.optim.SGD(self.net.parameters(), 0.05, momentum=0.9, weight_decay=1e-3)
        digests = []
        self.method.start(self.state, Probe(lambda number: [], lambda weights: torch.zeros(())))
        for step in range(steps):
            x = torch.randn(32, 20, generator=generator, dtype=torch.float64)
            labels = torch.randint(0, 5, (32,), generator=generator)
            clock = Clock(step, steps)
            passes = self.method.passes(self.state, clock)
            dense = any("dense" in shares for shares in (passes.forward, passes.input, passes.weight))
            with self.runner.installed(self.state.masks, dense_gradient=dense):
                loss = functional.cross_entropy(self.net(x), labels)
            self.ways |= set(self.runner.chosen.values())
            optimizer.zero_grad()
            loss.backward()
            self.method.before_step(self.state, clock, optimizer)
            optimizer.step()
            self.method.after_step(self.state, clock.after, optimizer)
            digests.append(self.state.digest())
        return digests


@pytest.mark.parametrize("method", [Static, SET, RigL, GMP], ids=lambda m: m.__name__)
@pytest.mark.parametrize("backend", ["direct", "csr"])
def test_methods_choose_the_same_masks(method, backend):
    options = {"density": 0.2} | ({"every": 5} if method in (SET, RigL, GMP) else {})
    ours, theirs = (Digits(way, method(**options)) for way in (backend, "masked"))
    assert ours.train(60) == theirs.train(60)
    assert backend in ours.ways
    for one, two in zip(ours.net.parameters(), theirs.net.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-10)


def test_auto_keeps_dense_unless_another_way_is_faster():
    choices = Choices()
    x, weight, mask = torch.randn(16, 8), torch.randn(8, 8), torch.rand(8, 8) < 0.5
    shape = Shape((1, 1), (1, 1), (1, 1), (0, 0))
    ways = {"masked": lambda a, w, b: a @ w.t(), "direct": lambda a, w, b: a @ w.t()}
    case = choice_module.describe(x, weight, mask, shape)
    for masked, other, wanted in ((1.0, 0.99, "masked"), (1.0, 0.5, "direct"), (1.0, 2.0, "masked")):
        choices.seconds[case] = {"masked": masked, "direct": other}
        assert choice_module.fastest(choices.times(ways, x, weight, None, mask, shape)) == wanted


def test_auto_times_a_case_once_and_remembers_it_on_disk(tmp_path):
    calls = []

    def way(name):
        def run(a, w, b):
            calls.append(name)
            return a @ w.t()

        return run

    x, weight, mask = torch.randn(16, 8), torch.randn(8, 8), torch.rand(8, 8) < 0.5
    shape = Shape((1, 1), (1, 1), (1, 1), (0, 0))
    ways = {"masked": way("masked"), "direct": way("direct")}
    first = Choices(rounds=2).times(ways, x, weight, None, mask, shape)
    assert calls == ["masked", "direct"] * 3
    assert Choices().times(ways, x, weight, None, mask, shape) == first
    (file,) = tmp_path.glob("times-*.json")
    assert list(json.loads(file.read_text())) == [choice_module.describe(x, weight, mask, shape)]
    choice_module._known.cache_clear()
    assert Choices().times(ways, x, weight, None, mask, shape) == first
    assert len(calls) == 6


def test_timing_leaves_gradients_and_random_numbers_alone():
    (net, _), (state, _) = masked_pair(torch.float32)
    x = torch.randn(4, 3, 16, 16)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with SparseLayers(net, state.params, "auto").installed(state.masks):
        net(x)
    assert torch.equal(before, torch.get_rng_state())
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("density", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("pixels", [1, 9, 300])
def test_compressed_rows(density, pixels):
    torch.manual_seed(0)
    mask = torch.rand(7, 11) < density
    x = torch.randn(11, pixels, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 11, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(7, dtype=torch.float64, requires_grad=True)
    support = direct.support_of(mask)
    shape = Shape((pixels, 1), (1, 1), (1, 1), (0, 0))
    out = csr.multiply(x, support.values(weight), bias, support, shape)
    wanted = torch.einsum("oc,cpn->opn", weight * mask, x) + bias.view(-1, 1, 1)
    torch.testing.assert_close(out, wanted)
    grad = torch.randn_like(out)
    for one, two in zip(*(torch.autograd.grad(y, (x, weight, bias), grad) for y in (out, wanted)), strict=True):
        torch.testing.assert_close(one, two)


def test_compressed_rows_refuse_kernels():
    support = direct.support_of(torch.ones(2, 2, 3, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="use direct or masked"):
        csr.multiply(torch.randn(2, 9, 4), torch.ones(36), None, support, Shape((3, 3), (3, 3), (1, 1), (1, 1)))


def test_layers_that_store_active_weights_only():
    (net, other), (state, _) = masked_pair(torch.float64)
    masks = {name: mask for name, mask in state.masks.items() if "grouped" not in name}
    small = direct.store_active(copy.deepcopy(net), masks)
    assert list(small.state_dict()) == list(other.state_dict()) or set(small.state_dict()) == set(other.state_dict())
    assert all(torch.equal(small.state_dict()[name], value) for name, value in other.state_dict().items())
    assert small.one.values.numel() == int(masks["one.weight"].sum())
    assert "weights active" in repr(small.one)
    optimizers = [torch.optim.SGD(n.parameters(), 0.1, momentum=0.9, weight_decay=1e-3) for n in (small, other)]
    masking = SparseModel.of(other)
    masking.set_masks(masks)
    for _ in range(3):
        x = torch.randn(5, 3, 16, 16, dtype=torch.float64)
        for model, optimizer in zip((small, other), optimizers, strict=True):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            if model is other:
                masking.mask_gradients_()
            optimizer.step()
    for name, value in other.state_dict().items():
        torch.testing.assert_close(small.state_dict()[name], value, msg=lambda m, n=name: f"{n}: {m}")
    fresh = direct.store_active(Net().double(), masks)
    fresh.load_state_dict(other.state_dict())
    torch.testing.assert_close(fresh.eval()(x), other.eval()(x))


def test_a_stored_layer_refuses_weights_outside_its_mask():
    net = direct.store_active(nn.Sequential(nn.Linear(3, 3)), {"0.weight": torch.eye(3, dtype=torch.bool)})
    with pytest.raises(RuntimeError, match="6 weights outside this layer's mask"):
        net.load_state_dict(nn.Sequential(nn.Linear(3, 3)).state_dict())
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"0.weight\""):
        net.load_state_dict({"0.bias": torch.zeros(3)})


def test_a_stored_layer_takes_another_mask():
    old, new = torch.eye(3, dtype=torch.bool), torch.ones(3, 3, dtype=torch.bool).tril()
    net = direct.store_active(nn.Sequential(nn.Linear(3, 3)), {"0.weight": old})
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    net(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    before, moment = net[0].weight, old.float().masked_scatter(old, optimizer.state[net[0].values]["momentum_buffer"])
    net[0].set_mask(new, optimizer)
    torch.testing.assert_close(net[0].weight, before)
    torch.testing.assert_close(net[0].support.scatter(optimizer.state[net[0].values]["momentum_buffer"]), moment)
    net(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    with pytest.raises(ValueError, match="is needed"):
        net[0].set_mask(new[:2])


@pytest.mark.parametrize(
    ("masks", "words"),
    [({"1.weight": (4, 4)}, "does not belong to a layer"), ({"0.weight": (4, 1, 3, 3)}, "has 4 groups")],
)
def test_layers_that_cannot_be_stored_sparsely(masks, words):
    net = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4))
    with pytest.raises(ValueError, match=words):
        direct.store_active(net, {name: torch.ones(shape, dtype=torch.bool) for name, shape in masks.items()})
    assert type(net[0]) is nn.Conv2d


def test_layers_of_more_than_half_their_weights_stay_dense():
    (net, _), (state, _) = masked_pair(torch.float32)
    state.set_masks({"two.weight": torch.rand(8, 8, 3, 3) < 0.9})
    runner = SparseLayers(net, state.params, "direct")
    with runner.installed(state.masks):
        net(torch.randn(4, 3, 16, 16))
    assert {name for name, way in runner.chosen.items() if way == "masked"} == {"two.weight"}


def test_inference_mode():
    with torch.inference_mode():
        mask = torch.rand(4, 4) < 0.5
        x, weight = torch.randn(20, 4), torch.randn(4, 4)
        torch.testing.assert_close(direct.linear(x, weight, mask), functional.linear(x, weight * mask))
        mask.copy_(~mask)
        torch.testing.assert_close(direct.linear(x, weight, mask), functional.linear(x, weight * mask))
