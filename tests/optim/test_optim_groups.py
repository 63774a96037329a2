"""Weight-decay groups by module type, and several optimizers stepping as one."""

import copy
import io

import pytest
import torch
from torch import nn

from sparsebench.optim import MLLinBreg, Together, decay_groups


class Odd(nn.Module):
    """Names that mislead: a norm called ``weight_layer``, a matrix called ``bias_table``."""

    def __init__(self):
        super().__init__()
        self.weight_layer = nn.LayerNorm((2, 3))
        self.bias_table = nn.Embedding(4, 6)
        self.norm = nn.Linear(6, 5)
        self.conv = nn.Conv2d(1, 2, 3)
        self.downsample = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2), nn.GroupNorm(1, 2))
        self.gain = nn.Parameter(torch.ones(5))
        self.tied = self.norm


def test_decay_groups_go_by_type():
    net = Odd()
    decayed, exempt = decay_groups(net, 0.1)
    assert decayed["weight_decay"] == 0.1
    assert exempt["weight_decay"] == 0.0
    wanted = [net.bias_table.weight, net.norm.weight, net.conv.weight, net.downsample[0].weight]
    assert {id(p) for p in decayed["params"]} == {id(p) for p in wanted}
    assert len(decayed["params"]) == 4
    assert len(exempt["params"]) == len(list(net.parameters())) - 4
    torch.optim.SGD(decay_groups(net, 0.1), lr=0.1)


def test_decay_groups_leave_out_what_is_frozen_or_empty():
    net = Odd()
    assert [len(g["params"]) for g in decay_groups(net, 0.1, decay_norm_and_bias=True)] == [len(list(net.parameters()))]
    net.conv.weight.requires_grad_(False)
    assert all(p is not net.conv.weight for g in decay_groups(net, 0.1) for p in g["params"])
    assert [g["weight_decay"] for g in decay_groups(nn.BatchNorm2d(3), 0.1)] == [0.0]


def test_decay_groups_refuse():
    with pytest.raises(ValueError, match="weight_decay -1"):
        decay_groups(nn.Linear(2, 2), -1.0)
    with pytest.raises(ValueError, match="Linear has no trainable parameter"):
        decay_groups(nn.Linear(2, 2).requires_grad_(False), 0.1)


def pair():
    torch.manual_seed(0)
    weight, score = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.rand(4, 3))
    return weight, score, [torch.optim.SGD([weight], lr=0.1, momentum=0.9), torch.optim.Adam([score], lr=0.02)]


def fill(weight, score, step):
    generator = torch.Generator().manual_seed(step)
    for parameter in (weight, score):
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_together_equals_stepping_apart():
    weight, score, apart = pair()
    other_weight, other_score, parts = pair()
    joint = Together(parts)
    for step in range(5):
        fill(weight, score, step)
        fill(other_weight, other_score, step)
        for optimizer in apart:
            optimizer.step()
        joint.step()
    assert torch.equal(weight, other_weight)
    assert torch.equal(score, other_score)


def test_together_adopts_state_of_optimizers_that_already_stepped():
    weight, score, apart = pair()
    other_weight, other_score, parts = pair()
    for step in range(6):
        fill(weight, score, step)
        fill(other_weight, other_score, step)
        for optimizer in apart:
            optimizer.step()
        if step == 3:
            parts = [Together(parts)]
        for optimizer in parts:
            optimizer.step()
    assert torch.equal(weight, other_weight)
    assert torch.equal(score, other_score)


def test_closure_runs_once_and_schedulers_reach_every_group():
    weight, score, parts = pair()
    joint = Together(parts)
    assert isinstance(joint, torch.optim.Optimizer)
    scheduler = torch.optim.lr_scheduler.StepLR(joint, 1, gamma=0.5)
    calls = []

    def closure():
        joint.zero_grad()
        loss = (weight * score).square().sum()
        loss.backward()
        calls.append(loss)
        return loss

    hooked = []
    joint.register_step_post_hook(lambda *_: hooked.append(1))
    with torch.no_grad():
        assert joint.step(closure) is calls[0]
    scheduler.step()
    assert len(calls) == len(hooked) == 1
    assert [group["lr"] for part in parts for group in part.param_groups] == pytest.approx([0.05, 0.01])
    joint.zero_grad()
    assert weight.grad is None
    assert score.grad is None


def test_together_resumes_bit_exactly_through_a_file():
    weight, score, _ = pair()

    def build(weight, score):
        levels = MLLinBreg([weight], 0.1, "l1", 0.1, coarse_steps=3, momentum=0.5)
        return Together([levels, torch.optim.Adam([score], lr=0.02)])

    joint = build(weight, score)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(joint, 0.9)
    for step in range(5):
        fill(weight, score, step)
        joint.step()
        scheduler.step()
    file = io.BytesIO()
    torch.save(joint.state_dict(), file)
    file.seek(0)
    new_weight, new_score = (nn.Parameter(p.detach().clone()) for p in (weight, score))
    resumed = build(new_weight, new_score)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.optimizers[0].next_phase == "coarse"
    assert resumed.optimizers[0].active_masks()[new_weight].dtype == torch.bool
    for step in range(5, 12):
        for w, s, optimizer in ((weight, score, joint), (new_weight, new_score, resumed)):
            fill(w, s, step)
            optimizer.step()
    assert torch.equal(weight, new_weight)
    assert torch.equal(score, new_score)
    # Loading replaced the groups: they must be shared still.
    shared = [group for optimizer in resumed.optimizers for group in optimizer.param_groups]
    assert all(a is b for a, b in zip(resumed.param_groups, shared, strict=True))
    assert all(optimizer.state is resumed.state for optimizer in resumed.optimizers)


def test_together_survives_deepcopy():
    weight, score, parts = pair()
    joint = Together(parts)
    fill(weight, score, 0)
    joint.step()
    twin = copy.deepcopy(joint)
    twin_weight, twin_score = (group["params"][0] for group in twin.param_groups)
    fill(weight, score, 1)
    fill(twin_weight, twin_score, 1)
    joint.step()
    twin.step()
    assert twin_weight is not weight
    assert torch.equal(weight, twin_weight)
    assert torch.equal(score, twin_score)


def test_together_refuses():
    weight, _, parts = pair()
    with pytest.raises(ValueError, match="at least one optimizer"):
        Together([])
    with pytest.raises(ValueError, match="more than one parameter group"):
        Together([torch.optim.SGD([weight], lr=0.1), torch.optim.SGD([weight], lr=0.1)])
    with pytest.raises(ValueError, match="add it to one optimizer"):
        Together(parts).add_param_group({"params": [nn.Parameter(torch.ones(1))]})
