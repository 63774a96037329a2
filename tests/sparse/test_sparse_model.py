"""SparseModel: the one door through which masks change, and everything that must survive a step."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparsebench.sparse import SparseModel, digest

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.9, centered=True),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.1, weight_decay=0.01),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4, 3))


def random_masks(net, density=0.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.rand(p.shape, generator=generator) < density for n, p in net.params.items()}


def train_a_little(module, optimizer, steps=3):
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        module(torch.randn(8, 2, 4, 4)).square().mean().backward()
        optimizer.step()


def moments(optimizer, parameter):
    state = optimizer.state[parameter]
    return {k: v for k, v in state.items() if isinstance(v, torch.Tensor) and v.shape == parameter.shape}


class TestOneDoor:
    def test_adopts_a_copy_in_the_strides_of_the_parameter(self):
        module = network().to(memory_format=torch.channels_last)
        net = SparseModel.of(module)
        given_ = random_masks(net)
        net.set_masks(given_)
        for name, mask in net.masks.items():
            assert mask.stride() == net.params[name].stride()
            assert torch.equal(mask, given_[name])
        given_["0.weight"].fill_(True)
        assert not net.masks["0.weight"].all(), "the caller's tensor must not be kept"

    def test_clears_weights_outside(self):
        net = SparseModel.of(network())
        before = {n: p.detach().clone() for n, p in net.params.items()}
        masks = random_masks(net)
        net.set_masks(masks)
        for name, p in net.params.items():
            assert torch.equal(p.detach(), before[name] * masks[name])

    def test_leaves_weights_alone_when_zeros_are_computed(self):
        net = SparseModel.of(network())
        before = {n: p.detach().clone() for n, p in net.params.items()}
        masks = random_masks(net)
        net.set_masks(masks, clear=False)
        assert all(torch.equal(p.detach(), before[n]) for n, p in net.params.items())
        assert all(torch.equal(w.detach(), before[n] * masks[n]) for n, w in net.masked().items())

    def test_the_masked_view_is_differentiable_in_the_dense_weights(self):
        net = SparseModel.of(network())
        net.set_masks(random_masks(net), clear=False)
        torch.autograd.backward([w.sum() for w in net.masked().values()])
        assert all(torch.equal(net.params[n].grad, m.float()) for n, m in net.masks.items())

    @pytest.mark.parametrize("kind", OPTIMIZERS)
    def test_clears_every_moment_of_the_parameters_shape(self, kind):
        module = network()
        net = SparseModel.of(module)
        optimizer = OPTIMIZERS[kind](module.parameters())
        train_a_little(module, optimizer)
        other = {n: v.clone() for n, v in moments(optimizer, module[4].bias).items()}
        before = {n: {k: v.clone() for k, v in moments(optimizer, p).items()} for n, p in net.params.items()}
        assert all(len(found) >= 1 for found in before.values())

        masks = random_masks(net)
        net.set_masks(masks, optimizer)

        for name, p in net.params.items():
            for key, value in moments(optimizer, p).items():
                assert torch.equal(value, before[name][key] * masks[name]), (name, key)
        assert all(torch.equal(v, other[k]) for k, v in moments(optimizer, module[4].bias).items())

    @pytest.mark.parametrize("kind", OPTIMIZERS)
    def test_a_zero_is_never_revived_while_gradients_are_masked(self, kind):
        module = network()
        net = SparseModel.of(module)
        optimizer = OPTIMIZERS[kind](module.parameters())
        train_a_little(module, optimizer)
        net.set_masks(random_masks(net), optimizer)
        for step in range(5):
            torch.manual_seed(step)
            optimizer.zero_grad()
            module(torch.randn(8, 2, 4, 4)).square().mean().backward()
            net.mask_gradients_()
            optimizer.step()
        for name, mask in net.masks.items():
            assert not net.params[name][~mask].any()
            assert all(not value[~mask].any() for value in moments(optimizer, net.params[name]).values())

    def test_grown_weights_start_at_zero_and_survivors_keep_value_and_moment(self):
        p = nn.Parameter(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        net = SparseModel({"w": p})
        optimizer = torch.optim.SGD([p], lr=0.0, momentum=0.9)
        net.set_masks({"w": torch.tensor([True, True, False, False])}, optimizer)
        p.grad = torch.ones(4)
        optimizer.step()
        with torch.no_grad():
            p[2] = 7.0  # a stale value: must not return with the connection
        net.set_masks({"w": torch.tensor([True, False, True, False])}, optimizer)
        assert p.tolist() == [1.0, 0.0, 0.0, 0.0]
        assert optimizer.state[p]["momentum_buffer"].tolist() == [1.0, 0.0, 0.0, 0.0]

    def test_keep_says_who_survives(self):
        p = nn.Parameter(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        net = SparseModel({"w": p})
        net.set_masks({"w": torch.tensor([True, True, True, False])})
        new = torch.tensor([True, True, False, True])
        net.set_masks({"w": new}, keep={"w": torch.tensor([True, False, True, False])})
        assert p.tolist() == [1.0, 0.0, 0.0, 0.0]
        assert torch.equal(net.masks["w"], new)

    def test_parameters_that_are_not_named_keep_their_masks(self):
        net = SparseModel.of(network())
        masks = random_masks(net)
        net.set_masks(masks)
        net.set_masks({"4.weight": torch.ones(3, 16, dtype=torch.bool)})
        assert torch.equal(net.masks["0.weight"], masks["0.weight"])
        assert net.masks["4.weight"].all()

    @pytest.mark.parametrize(
        ("name", "mask", "message"),
        [
            (
                "1.weight",
                torch.ones(4, dtype=torch.bool),
                "may not be sparse and cannot have a mask; allowed are 0.weight, 4.weight",
            ),
            ("4.weight", torch.ones(3, 15, dtype=torch.bool), r"\(3, 15\) given, torch.bool \(3, 16\) needed"),
            ("4.weight", torch.ones(3, 16), r"torch.float32 \(3, 16\) given, torch.bool"),
        ],
    )
    def test_refuses_what_does_not_fit_and_changes_nothing(self, name, mask, message):
        net = SparseModel.of(network())
        before = {n: p.detach().clone() for n, p in net.params.items()}
        with pytest.raises(ValueError, match=message):
            net.set_masks({"0.weight": torch.zeros(4, 2, 3, 3, dtype=torch.bool), name: mask})
        assert net.masks == {}
        assert net.version == 0
        assert all(torch.equal(p.detach(), before[n]) for n, p in net.params.items())

    def test_needs_a_parameter(self):
        with pytest.raises(ValueError, match="at least one parameter"):
            SparseModel({})


class TestReading:
    def test_counts_are_counted_once_per_change(self, monkeypatch):
        net = SparseModel.of(network())
        assert net.counts == {"0.weight": 72, "4.weight": 48}
        assert net.density == 1.0
        mask = torch.zeros(3, 16, dtype=torch.bool)
        mask[0] = True
        net.set_masks({"4.weight": mask})
        assert net.counts == {"0.weight": 72, "4.weight": 16}
        assert net.densities == {"0.weight": 1.0, "4.weight": 1 / 3}
        assert net.density == pytest.approx(88 / 120)

        calls = []
        monkeypatch.setattr("sparsebench.sparse.model.whole_numbers", lambda scalars: calls.append(1) or {})
        assert net.counts["4.weight"] == 16
        assert not calls

    def test_version_and_share_of_changed_weights(self):
        net = SparseModel({"w": nn.Parameter(torch.ones(4))})
        net.set_masks({"w": torch.tensor([True, True, False, False])})
        assert (net.version, float(net.change)) == (1, 0.0)
        net.set_masks({"w": torch.tensor([True, False, True, False])})
        assert (net.version, float(net.change)) == (2, 0.5)

    def test_the_union_of_masks_is_remembered(self):
        net = SparseModel({"w": nn.Parameter(torch.ones(4))})
        for active in ([0, 1], [1, 2], [0, 1]):
            net.set_masks({"w": torch.tensor([i in active for i in range(4)])})
        assert net.memory["fired"]["w"].tolist() == [True, True, True, False]

    def test_gradients_are_zero_where_there_are_none(self):
        net = SparseModel({"w": nn.Parameter(torch.ones(4))})
        assert net.gradients()["w"].tolist() == [0, 0, 0, 0]
        net.mask_gradients_()
        assert net.params["w"].grad is None

    def test_draws_depend_on_seed_and_path_alone(self):
        p = nn.Parameter(torch.ones(4))
        draw = lambda seed, *path: torch.rand(3, generator=SparseModel({"w": p}, seed=seed).generator(*path)).tolist()  # noqa: E731
        assert draw(1, "grow", 5, "w") == draw(1, "grow", 5, "w")
        assert draw(1, "grow", 5, "w") != draw(1, "grow", 6, "w")
        assert draw(1, "grow", 5, "w") != draw(2, "grow", 5, "w")


class TestDigest:
    def test_layout_and_order_do_not_enter(self):
        a = torch.rand(4, 3, 2, 2) < 0.5
        assert digest({"a": a, "b": a}) == digest({"b": a, "a": a.to(memory_format=torch.channels_last)})

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.booleans(), min_size=1, max_size=40), st.data())
    def test_one_flipped_bit_shows(self, bits, data):
        where = data.draw(st.integers(0, len(bits) - 1))
        other = [bit != (i == where) for i, bit in enumerate(bits)]
        assert digest({"m": torch.tensor(bits)}) != digest({"m": torch.tensor(other)})

    def test_shape_and_name_show(self):
        a = torch.ones(2, 6)
        assert len({digest({"a": a}), digest({"a": a.reshape(3, 4)}), digest({"b": a})}) == 3

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int32, torch.bool])
    def test_every_type_has_one(self, dtype):
        assert len(digest({"a": torch.ones(3).to(dtype), "scalar": torch.tensor(1).to(dtype)})) == 16


class TestSaving:
    def test_round_trip(self, tmp_path):
        module = network().to(memory_format=torch.channels_last)
        net = SparseModel.of(module, seed=3)
        net.learned = {"0.weight": nn.Parameter(torch.rand(4, 2, 3, 3))}
        net.set_masks(random_masks(net, seed=1))
        net.set_masks(random_masks(net, seed=2))
        net.memory["active"] = {"0.weight": torch.arange(72, dtype=torch.int32).reshape(4, 2, 3, 3)}
        torch.save(net.state_dict(), tmp_path / "state.pt")

        again = SparseModel.of(network().to(memory_format=torch.channels_last), seed=3)
        again.learned = {"0.weight": nn.Parameter(torch.zeros(4, 2, 3, 3))}
        again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))

        assert again.digest() == net.digest()
        assert digest(dict(again.tensors())) == digest(dict(net.tensors()))
        assert (again.version, float(again.change), again.counts) == (net.version, float(net.change), net.counts)
        assert again.memory["active"]["0.weight"].dtype == torch.int32
        assert all(m.dtype == torch.bool and m.stride() == again.params[n].stride() for n, m in again.masks.items())

    def test_an_active_zero_stays_active(self):
        net = SparseModel({"w": nn.Parameter(torch.tensor([0.0, 1.0, 2.0]))})
        net.set_masks({"w": torch.tensor([True, True, False])})
        again = SparseModel({"w": nn.Parameter(net.params["w"].detach().clone())})
        again.load_state_dict(net.state_dict())
        assert again.masks["w"].tolist() == [True, True, False]

    def test_refuses_the_state_of_another_network(self):
        net = SparseModel({"w": nn.Parameter(torch.ones(3))})
        net.set_masks({"w": torch.tensor([True, True, False])})
        with pytest.raises(ValueError, match="may not be sparse"):
            SparseModel({"v": nn.Parameter(torch.ones(3))}).load_state_dict(net.state_dict())
        with pytest.raises(ValueError, match=r"\(4,\) needed"):
            SparseModel({"w": nn.Parameter(torch.ones(4))}).load_state_dict(net.state_dict())

    def test_follows_its_parameters_to_another_device(self):
        net = SparseModel({"w": nn.Parameter(torch.ones(3, device="meta"))})
        net.masks = {"w": torch.tensor([True, True, False])}  # as a checkpoint leaves them: on the CPU
        net.memory = {"fired": {"w": torch.tensor([True, True, True])}}
        net.move_()
        assert {tensor.device.type for _, tensor in net.tensors()} == {"meta"}


def test_projection_sets_exact_zeros():
    net = SparseModel({"w": nn.Parameter(torch.tensor([1.0, math.nan, math.inf, -1.0]))})
    net.set_masks({"w": torch.tensor([True, False, False, True])}, clear=False)
    net.project_()
    assert net.params["w"].tolist() == [1.0, 0.0, 0.0, -1.0]
