"""The final network without its dead channels: the same function, plain layers, plain keys."""

import json

import pytest
import torch
from torch import nn

from sparsebench.app.cli.export import export
from sparsebench.app.config.compose import compose_config
from sparsebench.app.process.execute import run_config
from sparsebench.execution import ChannelNetwork, nonzero_filters, removable, shrink
from sparsebench.models import build

NETWORKS = [("vgg11", {}), ("resnet20", {}), ("resnet20", {"shortcut": "pad"}), ("resnet50", {}), ("wrn22_2", {})]


def dead(name, options):
    """A trained-looking network whose dead channels are stored zeros."""
    torch.manual_seed(0)
    net = build(name, classes=10, shape=(3, 32, 32), **options).double().eval()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.bias)
            nn.init.normal_(layer.running_mean)
    network = ChannelNetwork.of(net, dict(net.named_parameters()))
    masks = {n: torch.rand(width) < 0.4 for n, width in network.units.items()}
    for mask in masks.values():
        mask[0] = True
    with torch.no_grad():
        named = dict(net.named_parameters())
        for key, tensor in network.masked(masks).tensors.items():
            if key in named:
                named[key].copy_(tensor)
    return net, network, masks


@pytest.mark.parametrize(("name", "options"), NETWORKS, ids=lambda v: str(v))
def test_a_shrunk_network_is_the_same_function(name, options):
    net, network, masks = dead(name, options)
    found = removable(network)
    assert all(torch.equal(found[unit], mask) for unit, mask in masks.items())
    small = shrink(network, found).eval()
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(small(images), net(images), rtol=1e-8, atol=1e-10)
    assert small.state_dict().keys() == net.state_dict().keys()
    assert sum(p.numel() for p in small.parameters()) < 0.5 * sum(p.numel() for p in net.parameters())
    first = small.get_submodule(next(iter(masks)))
    assert first.out_channels == first.weight.shape[0] == int(next(iter(masks.values())).sum())
    if name == "vgg11":
        assert type(small) is type(net)


def test_channels_that_norms_turn_into_constants_stay():
    net = build("vgg11", classes=10, shape=(3, 32, 32))
    with torch.no_grad():
        net.features.conv3.weight[5:] = 0
        net.features.bn3.bias.fill_(0.5)
    network = ChannelNetwork.of(net, dict(net.named_parameters()))
    assert all(mask.all() for mask in removable(network).values())
    with torch.no_grad():
        net.features.bn3.bias[5:] = 0
        net.features.bn3.weight[5:] = 0
    assert int(removable(network)["features.conv3"].sum()) == 5


def test_a_filter_of_zeros_that_a_norm_makes_constant_stays_alone():
    net = build("vgg11", classes=10, shape=(3, 32, 32)).double().eval()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.bias, 0.1, 1.0)
    with torch.no_grad():
        net.features.conv3.weight[5:] = 0
        net.features.bn3.weight[6:] = 0
        net.features.bn3.bias[6:] = 0
    network = ChannelNetwork.of(net, dict(net.named_parameters()))
    masks = removable(network)
    assert masks["features.conv3"].nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert int(nonzero_filters(network)["features.conv3"].sum()) == 5
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(shrink(network, masks).eval()(images), net(images), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("options", [{"shortcut": "pad"}, {}])
def test_constants_behind_residual_sums_stay(options):
    net, network, masks = dead("wrn22_2", {}) if not options else dead("resnet20", options)
    norms = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    for number in range(0, len(norms), 3):
        with torch.no_grad():
            norms[number].bias[::2] = 0.5
    found = removable(network)
    assert any(not mask.all() for mask in found.values())
    assert any(not torch.equal(found[name], mask) for name, mask in masks.items())
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(shrink(network, found).eval()(images), net(images), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("execution", ["compact", "masked", "null"])
def test_what_training_left_dead_is_exported_or_the_refusal_says_why(tmp_path, execution):
    run = tmp_path / "run"
    words = ["method=set", "pattern=channels", "sparsity=0.5", "every=4", "dataset.limit=256", "dataset.batch_size=32"]
    words += [f"execution={execution}", "progress=none", "trainer.max_epochs=3", "trainer.accelerator=cpu"]
    run_config(compose_config([*words, f"run_dir={run}"]))
    if execution == "null":
        with pytest.raises(ValueError, match=r"filters of zeros among 160, but the norms after them .* constants"):
            export(run, run / "small")
        return
    report = export(run, run / "small")
    left = sum(kept for kept, _ in report["channels"].values())
    masks = torch.load(run / "masks.pt", weights_only=True)
    live = {name: int(mask.flatten(1).any(1).sum()) for name, mask in masks.items()}
    assert left <= sum(live.values()) < 160
    assert report["after"]["macs"] < report["before"]["macs"]
    assert report["difference"] < 1e-5


def test_export_writes_a_network_that_plain_torch_runs(tmp_path):
    settings = [
        "method=vr_pge",
        "model=resnet20",
        "dataset=digits",
        "dataset.limit=64",
        "sparsity=0.6",
        "progress=none",
    ]
    run = tmp_path / "run"
    run_config(compose_config([*settings, "trainer.max_epochs=1", "trainer.accelerator=cpu", f"run_dir={run}"]))
    export(run, run / "small")
    report = json.loads((run / "small/channels.json").read_text())
    assert report["after"]["macs"] < 0.5 * report["before"]["macs"]
    program = torch.export.load(run / "small/small.pt2").module()
    full = build("resnet20", classes=10, shape=(1, 8, 8))
    full.load_state_dict(torch.load(run / "final.pt", weights_only=True))
    images = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        assert torch.allclose(program(images), full.eval()(images), rtol=1e-3, atol=1e-4)
    state = torch.load(run / "small/small.pt", weights_only=True)
    assert state.keys() == full.state_dict().keys()


def test_export_refuses_what_is_no_run(tmp_path):
    with pytest.raises(ValueError, match=r"holds no final\.pt"):
        export(tmp_path, tmp_path)
