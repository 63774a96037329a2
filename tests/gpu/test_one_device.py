"""Every method works on a device other than the processor, and chooses the same masks there.

``pretend`` needs none: its tensors say ``cuda:0``, compute on the processor, and refuse to mix with the processor's by
the rules of torch's fake tensors, so that a mask, a draw or a score that was forgotten there fails here, too, and so
that every operator whose values the host would wait for is known.
"""

from __future__ import annotations

import contextlib
from functools import partial

import pytest
import torch
from gpu.loops import loop_of
from gpu.pretend import WAITED, Pretend, pretending
from gpu.support import DEVICES, WAITS, configured, methods

from sparsebench.functional.random import generator
from sparsebench.methods import Clock

TOTAL = 12
EVERY = 3
BETWEEN = (1, 4, 10)
"""Steps that neither make an update, nor count or collect for one, nor follow a resumption."""


EXACT = [
    "set",
    "set_itop",
    "rigl",
    "rigl_itop",
    "dst_ee",
    "random_unfired",
    "static",
    "random",
    "gmp",
    "mest",
    "granet",
]
"""Methods whose choices follow from weights, gradients and draws alone, by operations that no rounding touches here."""


def life(loop, waits=None):
    """Start, train for two updates and more, and evaluate; return the masks after every step."""
    loop.start()
    seen = [{n: m.cpu() for n, m in loop.net.masks.items()}]
    for step in range(TOTAL):
        before, version = len(WAITED), loop.net.version
        loop.step(step, TOTAL)
        if step in BETWEEN and waits is not None:
            waits[step] = WAITED[before:] if loop.net.version == version else []
        if step == TOTAL // 2:
            loop.resume()
        seen.append({n: m.cpu() for n, m in loop.net.masks.items()})
    loop.check()
    loop.method.finish(loop.net)
    loop.check()
    return seen


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar")
@pytest.mark.parametrize("method", methods())
def test_a_method_never_mixes_devices(method):
    config = configured(method, "cpu", f"every={EVERY}", f"trainer.max_steps={TOTAL}")
    expected, waits = life(loop_of(config, torch.clone)), {}
    with pretending():
        found = life(loop_of(config, Pretend), waits)
    assert list(waits) == list(BETWEEN)
    if method not in WAITS:
        assert not any(waits.values()), "steps between updates would wait for a GPU"
    for step, (there, here) in enumerate(zip(found, expected, strict=True)):
        assert all(torch.equal(plain(there[name]), mask) for name, mask in here.items()), f"step {step}"


def plain(tensor):
    return tensor.held if isinstance(tensor, Pretend) else tensor


@pytest.mark.parametrize("device", [*DEVICES, "pretend"])
@pytest.mark.parametrize("method", EXACT)
def test_equal_scores_choose_equal_masks(method, device):
    """On weights, gradients and rates that are small multiples of powers of two no device rounds: masks are equal."""
    config = configured(method, "cpu", "every=2", "optimizer.lr=0.125", "optimizer.momentum=0.5",
                        "optimizer.weight_decay=0", f"trainer.max_steps={TOTAL}")  # fmt: skip
    expected = exact_masks(loop_of(config, torch.clone))
    with pretending() if device == "pretend" else contextlib.nullcontext():
        put = Pretend if device == "pretend" else partial(on_device, device=device)
        found = exact_masks(loop_of(config, put))
    assert all(torch.equal(plain(found[name]).cpu(), mask) for name, mask in expected.items())


def on_device(tensor, *, device):
    """Put a tensor on a device; on the processor, in the other memory format, whose order of elements differs."""
    if device == "cpu":
        four = tensor.dim() == 4
        return tensor.clone(memory_format=torch.channels_last) if four else tensor.clone()
    return tensor.to(device)


def exact_masks(loop):
    """Update the masks several times on given weights and gradients."""
    with torch.no_grad():
        for name, parameter in loop.net.params.items():
            parameter.copy_(loop.put(whole(parameter.shape, "weight", name)))
    loop.method.start(loop.net, loop.probe())
    for step in range(6):
        clock = Clock(step, TOTAL)
        for name, parameter in loop.net.params.items():
            parameter.grad = torch.empty_like(parameter).copy_(loop.put(whole(parameter.shape, str(step), name)))
        loop.method.passes(loop.net, clock)
        loop.method.before_step(loop.net, clock, loop.optimizer)
        loop.optimizer.step()
        loop.method.after_step(loop.net, clock.after, loop.optimizer)
    assert loop.net.version >= (1 if loop.method.budget_holds == "always" and not hasattr(loop.method, "every") else 3)
    return {name: mask.cpu() for name, mask in loop.net.masks.items()}


def whole(shape, *path):
    """Return multiples of 1/64 between -1 and 1."""
    return torch.randint(-64, 65, tuple(shape), generator=generator(0, *path)).float() / 64


def test_mixing_is_noticed():
    with pretending():
        weight = Pretend(torch.ones(3))
        assert (weight.device.type, weight.is_cuda) == ("cuda", True)
        assert isinstance(torch.zeros(2, device="cuda"), Pretend)
        assert isinstance(torch.ones(2).to("cuda:0"), Pretend)
        assert not isinstance(weight.cpu(), Pretend)
        assert isinstance(weight[torch.tensor([0, 1])], Pretend)  # indices may come from the host
        assert isinstance(weight * torch.ones(()), Pretend)  # and numbers
        before = len(WAITED)
        assert weight.sum().item() == 3.0
        assert len(weight.nonzero()) == 3
        assert WAITED[before:] == ["_local_scalar_dense", "nonzero"]
        assert torch.zeros(2, device=weight.device).device == weight.device
        with pytest.raises(RuntimeError, match=r"same device|two different devices"):
            weight * torch.ones(3)
        assert torch.equal(plain(weight.to("cpu")), torch.ones(3))
