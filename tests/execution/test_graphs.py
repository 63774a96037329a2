"""Replayed passes: equal to plain ones bit by bit where they replay, and plain where a replay would be wrong."""

import copy

import pytest
import torch
from gpu.imitation import imitate
from torch import nn

from sparsebench.execution.graphs import MOST_RECORDINGS, Replayed
from sparsebench.execution.recording import Unfit, capture_on_gpu

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
CAPTURES = {"cpu": imitate, "cuda": capture_on_gpu}


def network(device="cpu", dropout=0.3):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(dropout), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8 * 36, 5)).to(device)


def refuse(reason):
    raise reason


def replayed(net, give_up=refuse, capture=None):
    device = next(net.parameters()).device.type
    made = Replayed(net, capture=capture or CAPTURES[device], give_up=give_up)
    made.install()
    return made


def batches(device="cpu", count=6, size=4):
    random = torch.Generator().manual_seed(1)
    return [torch.randn(size, 3, 6, 6, generator=random).to(device) for _ in range(count)]


def train(net, images, *, low=False, momentum=0.9):
    """Train; return every output, loss, gradient, weight and buffer on the way."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=momentum)
    seen = []
    torch.manual_seed(5)
    for batch in images:
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=low):
            output = net(batch)
        loss = output.float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        seen += [output.detach().clone(), loss.detach(), *(p.grad.clone() for p in net.parameters())]
        optimizer.step()
    return seen + [t.detach().clone() for t in net.state_dict().values()] + [torch.rand(3)]


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        if one.device.type == "cpu":
            assert torch.equal(one, other)
        else:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("low", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("device", DEVICES)
def test_replays_train_as_plain_passes_do(device, low):
    net, other = network(device), network(device)
    made = replayed(net)
    assert_equal(train(net, batches(device), low=low), train(other, batches(device), low=low))
    assert (made.recordings, made.replays) == (1, 6)


@pytest.mark.parametrize("device", DEVICES)
def test_other_shapes_and_evaluation_run_plainly(device):
    net, other = network(device), network(device)
    made = replayed(net)
    images = batches(device)
    images[2] = images[2][:3]
    assert_equal(train(net, images), train(other, images))
    assert (made.recordings, made.replays) == (1, 5)
    net.eval(), other.eval()
    assert_equal([net(images[0])], [other(images[0])])
    net.train()
    with torch.no_grad():
        net(images[0])
    assert made.replays == 5


@pytest.mark.parametrize("device", DEVICES)
def test_what_moves_in_memory_is_recorded_anew(device):
    net, other = network(device), network(device)
    made = replayed(net)
    for step in range(3):
        for each in (net, other):
            for parameter in each.parameters():
                parameter.data = parameter.data.clone() * 0.9  # a step that replaces the weights
        assert_equal(train(net, batches(device, 2)), train(other, batches(device, 2)))
        assert made.recordings == step + 1
    net[1].eval(), other[1].eval()  # a frozen norm
    assert_equal(train(net, batches(device, 2)), train(other, batches(device, 2)))
    for each in (net, other):
        each[0].weight.requires_grad_(False)
    expected = other(batches(device, 1)[0])
    torch.manual_seed(5), net(batches(device, 1)[0])
    assert made.recordings == 5
    assert expected.requires_grad


def test_swapped_weights_are_seen():
    net = network(dropout=0.0)
    made = replayed(net)
    (batch,) = batches(count=1)
    plain = net(batch)
    swapped = {name: p * 2 for name, p in net.named_parameters()}
    other = network(dropout=0.0)
    other(batch)
    expected = torch.func.functional_call(other, {n: p * 2 for n, p in other.named_parameters()}, (batch,))
    assert torch.equal(torch.func.functional_call(net, swapped, (batch,)), expected)
    assert not torch.equal(plain, expected)
    assert made.recordings >= 1


def test_accumulation_would_be_wrong_and_is_left_plain():
    """The trap that ``active`` is for, shown by the imitation: a gradient kept over a replay is overwritten."""
    found = []
    for active in (None, False, True):
        net = network(dropout=0.0)
        if active is not None:
            replayed(net).active = active
        for batch in batches(count=2):
            net(batch).square().mean().backward()
        found.append([p.grad.clone() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(found[0], found[1], strict=True))
    assert not torch.equal(found[0][0], found[2][0])


def _scaled(function, sample):
    made = imitate(function, sample)
    return lambda *given: made(*given) * 1.5


def _stale(function, sample):
    made, first = imitate(function, sample), sample[0].clone()
    return lambda images, *weights: made(first, *weights)


def _old_weights(function, sample):
    apart = [tensor.detach().clone().requires_grad_() for tensor in sample[1:]]
    made, first = imitate(function, (sample[0], *apart)), [tensor.detach() * 0.5 for tensor in apart]
    return lambda images, *weights: made(images, *(w + (f - w.detach()) for w, f in zip(weights, first, strict=True)))


def _twice(function, sample):
    made = imitate(function, sample)

    def run(*given):
        made(*given)
        return made(*given)  # running statistics move twice

    return run


def _fails(function, sample):
    raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.parametrize("capture", [_scaled, _stale, _old_weights, _twice, _fails])
def test_a_wrong_recording_is_found_before_it_is_used(capture):
    reasons = []
    net, other = network(dropout=0.0), network(dropout=0.0)
    made = replayed(net, give_up=reasons.append, capture=capture)
    assert_equal(train(net, batches()), train(other, batches()))
    assert len(reasons) == 1
    assert made.replays == 0
    said = "cannot be recorded" if capture is _fails else "differs from the plain passes"
    assert said in str(reasons[0])


def test_hooks_and_other_outputs_are_refused():
    net = network()
    net[2].register_forward_hook(lambda *_: None)
    replayed(net)
    with pytest.raises(Unfit, match="2 has hooks"):
        net(batches()[0])

    class Two(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    net = Two(4, 4)
    replayed(net)
    with pytest.raises(Unfit, match="one tensor"):
        net(torch.ones(2, 4))


def test_weights_that_never_stay_are_not_recorded_for_ever():
    reasons = []
    net = network()
    made = replayed(net, give_up=reasons.append)
    for _ in range(MOST_RECORDINGS + 3):
        for parameter in net.parameters():
            parameter.data = parameter.data.clone()
        net(batches()[0])
    assert made.recordings == MOST_RECORDINGS
    assert len(reasons) == 1
    assert "moved in memory" in str(reasons[0])


def test_copies_and_what_is_removed_are_plain():
    net = network(dropout=0.0)
    made = replayed(net)
    net(batches()[0])
    copied = copy.deepcopy(net)
    assert torch.equal(copied.eval()(batches()[0]), net.eval()(batches()[0]))
    assert list(copied.state_dict()) == list(net.state_dict())
    made.remove()
    assert "forward" not in vars(net)
    net.train()(batches()[0])
    assert made.replays == 1
