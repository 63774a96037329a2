"""The expected cost of sampled networks against the table of the reference, and sampled costs around it."""

import pytest
import torch

from sparsebench.cost.flops import active_macs, dense_macs, layer_costs
from sparsebench.execution import ChannelNetwork
from sparsebench.models import build

KEEP = (0.7, 0.5, 0.3, 0.2, 0.1)
TABLE = {
    ("resnet20", 1, "projection"): (40_813_184, 784, (0.5640, 0.3210, 0.1306, 0.0623, 0.0171)),
    ("resnet20", 1, "everywhere"): (42_648_192, 1024, (0.5554, 0.3064, 0.1193, 0.0554, 0.0148)),
    ("resnet32", 2, "projection"): (275_612_928, 2464, (0.5758, 0.3387, 0.1454, 0.0715, 0.0201)),
    ("resnet32", 2, "everywhere"): (289_244_416, 3392, (0.5599, 0.3097, 0.1203, 0.0556, 0.0145)),
    ("vgg19", None, None): (398_136_320, 5504, (0.4909, 0.2511, 0.0909, 0.0407, 0.0104)),
}


def built(name, width, shortcut):
    options = {} if width is None else {"width": width, "shortcut": shortcut}
    with torch.device("meta"):
        net = build(name, classes=10, shape=(3, 32, 32), **options)
    return ChannelNetwork.of(net, dict(net.named_parameters())), layer_costs(net, torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("key", TABLE, ids=lambda key: f"{key[0]}-{key[2]}")
def test_expected_cost_is_that_of_the_table(key):
    network, costs = built(*key)
    macs, scores, ratios = TABLE[key]
    assert dense_macs(costs) == macs
    assert sum(network.units.values()) == scores
    for keep, ratio in zip(KEEP, ratios, strict=True):
        probabilities = {name: torch.full((width,), keep, dtype=torch.float64) for name, width in network.units.items()}
        assert active_macs(costs, network.shares(probabilities)) / macs == pytest.approx(ratio, abs=6e-5)


def test_sampled_cost_scatters_around_the_expected_one():
    network, costs = built("resnet20", 1, "projection")
    generator = torch.Generator().manual_seed(0)
    drawn = []
    for _ in range(40):
        masks = {n: torch.rand(width, generator=generator) < 0.5 for n, width in network.units.items()}
        drawn.append(active_macs(costs, network.shares(masks)) / dense_macs(costs))
    values = torch.tensor(drawn, dtype=torch.float64)
    assert abs(values.mean() - 0.3210) < 3 * values.std() / 40**0.5


def test_executed_cost_is_never_below_the_nominal_one():
    network, _ = built("vgg19", None, None)
    network.multiple = 16
    generator = torch.Generator().manual_seed(0)
    masks = {n: torch.rand(width, generator=generator) < 0.5 for n, width in network.units.items()}
    nominal, executed = network.shares(masks), network.shares(masks, executed=True)
    assert all(executed[name] >= share for name, share in nominal.items())
    assert sum(executed.values()) > sum(nominal.values())
