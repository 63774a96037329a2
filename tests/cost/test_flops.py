import math

import pytest
import timm
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sparsebench.cost.flops import active_macs, dense_flops, dense_macs, inference_flops, layer_costs
from sparsebench.models import build


def _counted(module, example):
    """FLOPs by torch's own counter: forward, and forward + backward with a gradient for the input."""
    example = example.requires_grad_()
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        loss = module.eval()(example).sum()
        forward = counter.get_total_flops()
        loss.backward()
    return forward, counter.get_total_flops()


def _grouped_excess(module, costs):
    """What torch 2.15 counts too much: the weight gradient of a grouped convolution as if it had one group."""
    groups = {f"{name}.weight": layer.groups for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d)}
    return sum(2 * cost.macs * (groups.get(cost.parameter, 1) - 1) for cost in costs)


@pytest.mark.parametrize(
    ("name", "classes", "shape", "options"),
    [
        ("vgg19", 10, (3, 32, 32), {}),
        ("wrn22_2", 10, (3, 32, 32), {}),
        ("resnet50", 100, (3, 32, 32), {}),
        ("resnet50", 1000, (3, 224, 224), {"stem": "imagenet"}),
    ],
)
def test_networks_of_the_papers_equal_the_counter_of_torch(name, classes, shape, options):
    with torch.device("meta"):
        module, example = build(name, classes=classes, shape=shape, **options), torch.zeros(1, *shape)
    flops = dense_flops(layer_costs(module, example))
    assert _counted(module, example) == (flops, 3 * flops)


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("efficientnet_b0", 64),  # depthwise
        ("resnext26ts", 64),  # grouped
        ("resnetv2_50", 64),  # standardised weights
        ("vit_tiny_patch16_224", 224),
        ("deit3_small_patch16_224", 224),  # layer scale, fused attention
        ("swin_tiny_patch4_window7_224", 224),
    ],
)
def test_timm_equals_the_counter_of_torch(name, side):
    with torch.device("meta"):
        module, example = timm.create_model(name), torch.zeros(1, 3, side, side)
    costs = layer_costs(module, example)
    forward, both = _counted(module, example)
    flops = dense_flops(costs)
    assert forward == flops
    assert both in (3 * flops, 3 * flops + _grouped_excess(module, costs))


@pytest.mark.parametrize("name", ["efficientnet_b0", "resnetv2_50", "vit_tiny_patch16_224"])
def test_every_prunable_weight_is_found_under_its_name(name):
    with torch.device("meta"):
        module, example = timm.create_model(name), torch.zeros(1, 3, 224, 224)
    costs = layer_costs(module, example)
    layers = {n for n, m in module.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert {cost.parameter for cost in costs} - {None} == {f"{n}.weight" for n in layers}
    assert all(cost.name.endswith("attn") for cost in costs if cost.parameter is None)
    assert all(cost.shape == tuple(module.get_parameter(cost.parameter).shape) for cost in costs if cost.parameter)


LAYERS = {
    "conv1d": (nn.Conv1d(4, 6, 3, padding=1), (4, 10), 4 * 6 * 3 * 10),
    "conv2d": (nn.Conv2d(4, 6, 3, stride=2), (4, 9, 9), 4 * 6 * 9 * 16),
    "conv3d": (nn.Conv3d(2, 3, 2), (2, 4, 4, 4), 2 * 3 * 8 * 27),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 5, 5), 2 * 6 * 9 * 25),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4, padding=1), (4, 5, 5), 8 * 9 * 25),
    "transposed": (nn.ConvTranspose2d(4, 6, 2, stride=2), (4, 5, 5), 4 * 6 * 4 * 25),
    "grouped transposed": (nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), (4, 5, 5), 2 * 6 * 4 * 25),
    "linear": (nn.Linear(7, 5), (7,), 35),
    "linear without bias": (nn.Linear(7, 5, bias=False), (7,), 35),
    "linear on tokens": (nn.Linear(7, 5), (11, 7), 11 * 35),
    "linear on tokens without bias": (nn.Linear(7, 5, bias=False), (11, 7), 11 * 35),
    "linear on an image": (nn.Linear(7, 5), (3, 4, 7), 12 * 35),
}


@pytest.mark.parametrize("case", LAYERS)
def test_single_layers_by_hand(case):
    layer, shape, macs = LAYERS[case]
    (cost,) = layer_costs(nn.Sequential(layer), torch.zeros(1, *shape))
    assert (cost.name, cost.parameter, cost.macs) == ("0", "0.weight", macs)
    assert cost.shape == tuple(layer.weight.shape)


def test_any_batch_is_one_sample():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(36, 5))
    assert layer_costs(module, torch.zeros(7, 3, 5, 5)) == layer_costs(module, torch.zeros(1, 3, 5, 5))


@pytest.mark.parametrize("grad", [True, False])
def test_multihead_attention_is_never_hidden_in_one_operator(grad):
    tokens, width = 6, 8
    layer = nn.TransformerEncoderLayer(width, 2, dim_feedforward=12, batch_first=True).eval()
    with torch.set_grad_enabled(grad):
        costs = layer_costs(layer, torch.zeros(1, tokens, width))
    by_name = {cost.parameter: cost.macs for cost in costs if cost.parameter}
    assert by_name == {
        "self_attn.in_proj_weight": tokens * width * 3 * width,
        "self_attn.out_proj.weight": tokens * width * width,
        "linear1.weight": tokens * width * 12,
        "linear2.weight": tokens * width * 12,
    }
    assert [cost.macs for cost in costs if cost.parameter is None] == [tokens * tokens * width] * 2


class _Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.first.weight
        self.free = nn.Parameter(torch.randn(4, 3))

    def forward(self, x):
        x = self.tied(self.first(self.first(x)))
        return x @ self.free


def test_shared_weights_and_functional_products():
    costs = layer_costs(_Shared(), torch.zeros(1, 4))
    assert [cost.parameter for cost in costs] == ["first.weight"] * 3 + ["free"]
    assert active_macs(costs, {"first.weight": 0.5}) == 24 + 12


class _Derived(nn.Module):
    """Weights that are computed on the way: a mask, a norm, a cast."""

    def __init__(self):
        super().__init__()
        self.masked = nn.Parameter(torch.randn(6, 4))
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))
        self.cast = nn.Parameter(torch.randn(4, 4, dtype=torch.float64))
        self.register_buffer("mask", torch.ones(6, 4, dtype=torch.bool))

    def forward(self, x):
        x = self.normed(nn.functional.linear(x, self.masked * self.mask))
        x = x @ self.cast.float()
        return x.T @ x  # neither operand is a weight, though each has the size of one


def test_computed_weights_are_traced_to_their_parameter_and_activations_are_not():
    costs = layer_costs(_Derived(), torch.zeros(1, 4))
    names = [cost.parameter for cost in costs]
    assert names == ["masked", "normed.parametrizations.weight.original1", "cast", None]
    assert [cost.macs for cost in costs] == [24, 24, 16, 16]


class _Latent(nn.Module):
    """A learned query that goes through a layer: the product belongs to the layer's weight."""

    def __init__(self):
        super().__init__()
        self.query = nn.Parameter(torch.randn(2, 4))
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(self.query) @ x.T


def test_a_weight_stands_right_of_its_input():
    costs = layer_costs(_Latent(), torch.zeros(1, 4))
    assert [cost.parameter for cost in costs] == ["layer.weight", None]
    assert [cost.macs for cost in costs] == [2 * 16, 8]


class _NeedsValues(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x) if x.sum().item() == 0 else x


def test_falls_back_to_the_device_where_values_are_needed():
    assert dense_macs(layer_costs(_NeedsValues(nn.Linear(4, 4)), torch.zeros(1, 4))) == 16
    encoder = nn.TransformerEncoderLayer(8, 2, dim_feedforward=12, batch_first=True)
    tokens = torch.zeros(1, 6, 8)
    assert dense_macs(layer_costs(_NeedsValues(encoder), tokens)) == dense_macs(layer_costs(encoder, tokens))
    assert torch.backends.mha.get_fastpath_enabled()


def test_an_error_of_the_module_is_its_own():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        layer_costs(nn.Linear(4, 4), torch.zeros(1, 5))


def test_tuples_of_inputs():
    costs = layer_costs(nn.Bilinear(3, 3, 2), (torch.zeros(1, 3), torch.zeros(1, 3)))
    assert dense_macs(costs) == 0  # as torch's counter: no formula for this operator
    cross = nn.MultiheadAttention(4, 1, batch_first=True)
    tokens = torch.zeros(1, 3, 4)
    assert dense_macs(layer_costs(cross, (tokens, tokens, tokens))) == 3 * 4 * 16 + 2 * 3 * 3 * 4


def test_the_module_is_left_alone():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(36, 5))
    module[1].eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    pointers = [p.data_ptr() for p in module.parameters()]
    random = torch.get_rng_state()
    example = torch.ones(2, 3, 5, 5, requires_grad=True)
    layer_costs(module, example)
    assert module.training
    assert not module[1].training
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert pointers == [p.data_ptr() for p in module.parameters()]
    assert all(p.grad is None and p.requires_grad for p in module.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
    assert example.grad is None
    assert torch.equal(random, torch.get_rng_state())
    assert torch.is_grad_enabled()


class _Noisy(nn.Module):
    def forward(self, x):
        return x * torch.rand(1).item()


def test_random_numbers_drawn_by_the_module_are_put_back():
    module = nn.Sequential(nn.Linear(4, 4), _Noisy())
    before = torch.get_rng_state()
    layer_costs(module, torch.zeros(1, 4))
    assert torch.equal(before, torch.get_rng_state())


def test_works_inside_inference_mode_and_autocast():
    module, example = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)), torch.zeros(1, 4)
    expected = layer_costs(module, example)
    with torch.inference_mode():
        assert layer_costs(module, example) == expected
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer_costs(module, example) == expected


def test_inference_flops():
    costs = layer_costs(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)), torch.zeros(1, 4))
    assert dense_flops(costs) == 2 * (24 + 12)
    assert inference_flops(costs, {}) == dense_flops(costs)
    assert inference_flops(costs, {"0.weight": 0.25, "elsewhere": 0.1}) == 2 * (6 + 12)


def test_counted_weights_give_whole_macs():
    (cost,) = layer_costs(nn.Conv2d(7, 11, 3, padding=1), torch.zeros(1, 7, 13, 13))
    size = math.prod(cost.shape)
    for kept in range(0, size + 1, 17):
        assert active_macs([cost], {"weight": kept / size}) == kept * 13 * 13
