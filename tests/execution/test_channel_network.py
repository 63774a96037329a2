"""A small network of live channels equals the full-size one with zeros: outputs, every gradient, running statistics."""

import copy

import pytest
import torch
from torch import nn

from sparsebench.execution import ChannelNetwork
from sparsebench.models import build

CIFAR = (3, 32, 32)
NETWORKS = [
    ("vgg11", CIFAR, {}),
    ("vgg19", CIFAR, {}),
    ("resnet20", CIFAR, {"shortcut": "pad"}),
    ("resnet20", CIFAR, {"shortcut": "everywhere"}),
    ("resnet32", CIFAR, {"width": 2}),
    ("resnet50", CIFAR, {}),
    ("resnet50", (3, 64, 64), {"stem": "imagenet"}),
    ("wrn22_2", CIFAR, {}),
    ("digits_cnn", (1, 8, 8), {}),
    ("lenet5", (1, 28, 28), {}),
    ("mlp", (1, 8, 8), {}),
]
NAMES = ["-".join([name, *(f"{k}={v}" for k, v in options.items())]) for name, _, options in NETWORKS]


def randomised(net):
    """Norms far from the identity: a mask before the norm would show."""
    net = net.double()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            for tensor in (layer.bias, layer.running_mean):
                nn.init.normal_(tensor)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    return net


def objective(net, shape, *, batch=3):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, *shape, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 10, (batch,), generator=generator)

    def loss(tensors):
        logits = torch.func.functional_call(net, dict(tensors), (images,))
        return nn.functional.cross_entropy(logits, labels)

    return loss


def draw(network, keep=0.4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    masks = {name: torch.rand(width, generator=generator) < keep for name, width in network.units.items()}
    for mask in masks.values():
        mask[-1] = True
    return masks


def pair(name, shape, options, *, training=True, multiple=1, **settings):
    settings = {"multiple": multiple, "sum_multiple": multiple, **settings}
    torch.manual_seed(0)
    net = randomised(build(name, classes=10, shape=shape, **options)).train(training)
    twin = copy.deepcopy(net)
    return [(n, ChannelNetwork.of(n, dict(n.named_parameters()), **settings), objective(n, shape)) for n in (net, twin)]


def gradients(net):
    return {name: p.grad for name, p in net.named_parameters()}


def largest_difference(one, two):
    assert one.keys() == two.keys()
    return max((float((one[n] - two[n]).abs().max() / (1 + two[n].abs().max())) for n in one), default=0.0)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("name", "shape", "options"), NETWORKS, ids=NAMES)
def test_small_equals_masked(name, shape, options, training):
    multiple = 8 if training else 1
    (net, small, one), (twin, masked, two) = pair(name, shape, options, training=training, multiple=multiple)
    masks = draw(small)
    losses = [small.run(one, masks, small=True), masked.run(two, masks, small=False)]
    assert torch.allclose(*losses, rtol=1e-10, atol=1e-12)
    for loss in losses:
        loss.backward()
    assert largest_difference(gradients(net), gradients(twin)) < 1e-10
    assert largest_difference(dict(net.named_buffers()), dict(twin.named_buffers())) < 1e-10
    assert net.state_dict().keys() == twin.state_dict().keys()
    assert "forward" not in vars(net)


@pytest.mark.parametrize("residual", ["union", "tied", "inner"])
@pytest.mark.parametrize("multiple", [1, 4])
def test_residual_streams_are_exact_over_several_steps(residual, multiple):
    (net, small, one), (twin, masked, two) = pair("resnet20", CIFAR, {}, residual=residual, multiple=multiple)
    optimizers = [torch.optim.SGD(n.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2) for n in (net, twin)]
    for step in range(3):
        masks = draw(small, seed=step)
        for network, loss, optimizer, way in ((small, one, optimizers[0], True), (masked, two, optimizers[1], False)):
            network.run(loss, masks, small=way).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert largest_difference(net.state_dict(), twin.state_dict()) < 1e-10


def test_tied_masks_are_one_per_stream_and_inner_ones_leave_streams_whole():
    net = build("resnet20", classes=10, shape=CIFAR)
    params = dict(net.named_parameters())
    union = ChannelNetwork.of(net, params)
    tied = ChannelNetwork.of(net, params, residual="tied")
    inner = ChannelNetwork.of(net, params, residual="inner")
    assert len(union.units) == 21
    assert sum(union.units.values()) == 784  # the scores of the reference table
    assert set(inner.units) == {f"layer{s}.{b}.conv1" for s in (1, 2, 3) for b in range(3)}
    assert set(tied.units) == {*inner.units, "conv1", "layer2.0.conv2", "layer3.0.conv2"}


def test_dead_channels_keep_their_statistics_and_get_zero_gradients():
    for way in (True, False):
        (net, network, loss), _ = pair("vgg11", CIFAR, {})
        before = {n: b.clone() for n, b in net.named_buffers()}
        masks = draw(network)
        network.run(loss, masks, small=way).backward()
        for layer in range(8):
            live = masks[f"features.conv{layer}"]
            after = net.features.get_submodule(f"bn{layer}")
            moved = after.running_mean != before[f"features.bn{layer}.running_mean"]
            assert torch.equal(moved, live)
            for parameter in (after.weight, after.bias, net.features.get_submodule(f"conv{layer}").weight):
                alive = parameter.grad.reshape(len(live), -1).abs().sum(1) > 0
                assert not alive[~live].any()
                assert alive[live].any()


def test_statistics_can_be_left_alone():
    (net, network, loss), _ = pair("resnet20", CIFAR, {})
    before = copy.deepcopy(dict(net.named_buffers()))
    for way in (True, False):
        with torch.no_grad():
            network.run(loss, draw(network), small=way, statistics=False)
    assert all(torch.equal(buffer, before[name]) for name, buffer in net.named_buffers())
    assert all(p.grad is None for p in net.parameters())


def test_a_mask_before_the_norm_is_another_network():
    (net, network, loss), _ = pair("vgg11", CIFAR, {})
    masks = draw(network)
    sliced = network.run(loss, masks)
    on_weight = {f"{n}.weight": net.get_submodule(n).weight * m.double()[:, None, None, None] for n, m in masks.items()}
    assert (sliced - loss(on_weight)).abs() > 1e-3


def test_the_network_really_is_small():
    net = build("resnet20", classes=10, shape=CIFAR)
    network = ChannelNetwork.of(net, dict(net.named_parameters()))
    masks = draw(network, 0.5)
    seen = {}
    for name in network.units:
        layer = net.get_submodule(name)
        layer.register_forward_hook(lambda m, i, o, name=name: seen.update({name: (i[0].shape[1], o.shape[1])}))
    network.run(lambda t: torch.func.functional_call(net, dict(t), (torch.randn(1, *CIFAR),)), masks)
    assert {name: out for name, (_, out) in seen.items()} == {name: int(m.sum()) for name, m in masks.items()}
    assert seen["layer1.0.conv1"][0] == int(masks["conv1"].sum())
    shares = network.shares(masks)
    for name, (inputs, outputs) in seen.items():
        shape = net.get_submodule(name).weight.shape
        assert shares[f"{name}.weight"] == pytest.approx(inputs * outputs / (shape[0] * shape[1]))


def test_widths_are_rounded_where_that_adds_an_eighth_at_most():
    network = ChannelNetwork(nn.Sequential(nn.Conv2d(3, 64, 1), nn.ReLU(), nn.Conv2d(64, 2, 1)), ["0"], multiple=16)
    for live, width in ((1, 1), (3, 3), (16, 16), (43, 48), (33, 36), (17, 18), (60, 64), (64, 64)):
        (out, _), (_, columns) = network.rounded({"0": torch.arange(64) < live}).layers.values()
        assert int(out.sum()) == int(columns.sum()) == width


def test_residual_sums_are_rounded_and_their_layers_are_not():
    net = build("resnet20", classes=10, shape=CIFAR)
    network = ChannelNetwork.of(net, dict(net.named_parameters()), sum_multiple=8)
    masks = draw(network)
    live, wide = network.exact(masks), network.rounded(masks)
    assert all(torch.equal(live.layers[name][0], wide.layers[name][0]) for name in network.units)
    widths = [(int(a[2].sum()), int(b[2].sum())) for a, b in zip(live.sums.values(), wide.sums.values(), strict=True)]
    assert all(b >= a and (b % 8 == 0 or a * 9 < 8 * (a + -a % 8)) for a, b in widths)
    assert any(b > a for a, b in widths)


@pytest.mark.parametrize("affine", [True, False])
def test_channels_that_fill_up_are_zero_behind_the_norm(affine):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16, affine=affine), nn.ReLU(), nn.Conv2d(16, 2, 1)).double()
    network = ChannelNetwork(net, ["0"], multiple=16)
    masks = {"0": torch.arange(16) >= 1}
    seen = []
    net[2].register_forward_hook(lambda layer, given, out: seen.append(out))
    network.run(lambda w: torch.func.functional_call(net, dict(w), (torch.randn(2, 3, 4, 4).double(),)), masks)
    (out,) = seen
    assert out.shape[1] == 16
    assert (out.abs().amax((0, 2, 3)) > 0).tolist() == [False] + [True] * 15


def test_channels_last_and_bfloat16():
    net = build("resnet20", classes=10, shape=CIFAR).to(memory_format=torch.channels_last)
    network = ChannelNetwork.of(net, dict(net.named_parameters()))
    images = torch.randn(4, *CIFAR).contiguous(memory_format=torch.channels_last)
    masks = draw(network)

    def call(tensors):
        with torch.autocast("cpu", torch.bfloat16):
            return torch.func.functional_call(net, dict(tensors), (images,)).float().square().mean()

    small, masked = network.run(call, masks), network.run(call, masks, small=False)
    assert small.item() == pytest.approx(masked.item(), rel=0.05)
    small.backward()
    assert all(p.grad.stride() == p.stride() for p in net.parameters())


def test_depthwise_layers_follow_their_inputs():
    def mobile():
        torch.manual_seed(0)
        return randomised(
            nn.Sequential(
                nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 3, padding=1, groups=8),
                nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                nn.Linear(4, 10),
            )
        )  # fmt: skip

    nets = mobile(), mobile()
    masks = {"0": torch.arange(8) % 3 == 0}
    for net, way in zip(nets, (True, False), strict=True):
        ChannelNetwork(net, ["0"]).run(objective(net, (3, 6, 6)), masks, small=way).backward()
    assert largest_difference(gradients(nets[0]), gradients(nets[1])) < 1e-10
    assert nets[0][3].groups == 8
    with pytest.raises(ValueError, match="around 3: a depthwise convolution is tied to its inputs"):
        ChannelNetwork(nets[0], ["0", "3"])


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.scale = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x = self.conv(x)
        return (x * self.scale(x)).mean((2, 3))


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return self.conv(x) if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("net", "layers", "reason"),
    [
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.Conv2d(8, 2, 1)), ["0"], "around 1: GroupNorm mixes"),
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sigmoid(), nn.Conv2d(8, 2, 1)), ["0"], "around 1: Sigmoid has no rule"),
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=2)), ["0"], "around 1: a convolution in 2 groups"),
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1)), ["0", "2"], "the output: reads masked"),
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.Linear(5, 5)), ["0"], "around 1: a linear layer reads masked"),
        (nn.Sequential(nn.ConvTranspose2d(3, 8, 1), nn.ReLU()), ["0"], "around 0: a mask over the outputs of Conv"),
        (Scaled(), ["conv"], "around mul: mul has no rule"),
        (Branching(), ["conv"], "torch.fx cannot trace it"),
    ],
    ids=["group norm", "sigmoid", "groups", "output", "linear", "transposed", "product", "branch"],
)
def test_refuses_by_name_what_cannot_be_sliced(net, layers, reason):
    with pytest.raises(ValueError, match=reason):
        ChannelNetwork(net, layers)


def test_refuses_empty_layers_compiled_networks_and_bad_settings():
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    network = ChannelNetwork(net, ["0"])
    with pytest.raises(ValueError, match="0 has no live channel"):
        network.run(lambda t: None, {"0": torch.zeros(8, dtype=torch.bool)})
    with pytest.raises(ValueError, match="multiple of 0"):
        ChannelNetwork(net, ["0"], multiple=0)
    with pytest.raises(ValueError, match="residual 'sum' must be one of union, tied, inner"):
        ChannelNetwork(net, ["0"], residual="sum")
    with pytest.raises(ValueError, match="no layer may lose channels"):
        ChannelNetwork.of(net, [])
    net.compile()
    with pytest.raises(ValueError, match=r"trainer\.compile=false"):
        network.run(lambda t: None, {"0": torch.ones(8, dtype=torch.bool)})


def test_torchvision_and_timm_networks_have_the_same_structure():
    import timm
    import torchvision

    for net in (torchvision.models.resnet18(num_classes=10), timm.create_model("resnet18", num_classes=10)):
        net = randomised(net)
        network = ChannelNetwork.of(net, dict(net.named_parameters()))
        masks = draw(network)
        with torch.no_grad():
            losses = [network.run(objective(net, (3, 33, 33)), masks, small=s, statistics=False) for s in (True, False)]
        assert torch.allclose(*losses, rtol=1e-10)
