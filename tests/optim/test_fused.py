"""Torch's optimizers in their fused form: the same steps, and only where nothing else was chosen."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, RMSprop

from sparsebench.engine.classifier import Classifier
from sparsebench.optim import LinBreg, fuse

RULES = {
    "sgd": partial(SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "plain sgd": partial(SGD, lr=0.1),
    "adam": partial(Adam, lr=0.1, weight_decay=1e-2),
    "adamw": partial(AdamW, lr=0.1),
}


def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 16, 5)).double()
    return net.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_takes_the_steps_of_the_plain_form(rule):
    one, two = network(), network()
    optimizers = (rule(one.parameters(), fused=False), fuse(rule(two.parameters())))
    assert optimizers[1].param_groups[0]["fused"]
    generator = torch.Generator().manual_seed(1)
    for step in range(4):
        images = torch.randn(4, 3, 6, 6, generator=generator).double()
        for net, optimizer in zip((one, two), optimizers, strict=True):
            optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
            optimizer.zero_grad()
            net(images).square().mean().backward()
            optimizer.step()
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)
        assert a.stride() == b.stride()


def test_a_saved_state_goes_on_in_the_form_that_wrote_it():
    net = network()
    plain, other = RULES["sgd"](net.parameters()), fuse(RULES["sgd"](net.parameters()))
    for optimizer in (plain, other):
        net(torch.ones(2, 3, 6, 6).double()).sum().backward()
        optimizer.step()
    saved = copy.deepcopy(plain.state_dict())
    other.load_state_dict(saved)
    assert other.param_groups[0]["fused"] is None


@pytest.mark.parametrize("choice", [{"fused": False}, {"foreach": True}, {"foreach": False}, {"differentiable": True}])
def test_leaves_what_was_chosen(choice):
    optimizer = fuse(SGD(network().parameters(), lr=0.1, **choice))
    assert not optimizer.param_groups[0]["fused"]


def test_leaves_other_optimizers_and_other_devices():
    assert "fused" not in fuse(RMSprop(network().parameters())).param_groups[0]
    assert "fused" not in fuse(LinBreg(network().parameters(), lr=0.1, lam=0.1)).param_groups[0]
    away = nn.Linear(2, 2, device="meta")
    assert fuse(SGD(away.parameters(), lr=0.1)).param_groups[0]["fused"] is None


def test_the_classifier_asks_for_it():
    module = Classifier(nn.Linear(2, 3), classes=3, optimizer=partial(SGD, lr=0.1), total_steps=1)
    configured = module.configure_optimizers()
    optimizer = configured["optimizer"] if isinstance(configured, dict) else configured
    assert all(group["fused"] for group in optimizer.param_groups)
