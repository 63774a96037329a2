"""Every network by name: sizes against the reference tables, behaviour, options, bad input, configuration."""

import copy
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from sparsebench.models import build, names
from sparsebench.models.registry import NETWORKS
from sparsebench.models.resnet import BasicBlock, Bottleneck

CONFIGS = Path(__file__).parents[2] / "conf" / "model"
SMALL = {"digits_cnn": (1, 8, 8), "lenet300": (1, 8, 8), "mlp": (1, 8, 8), "lenet5": (1, 16, 16)}
LIGHT = [name for name in names() if name not in ("wrn28_10", "resnet50", "vgg19", "vgg16")]


def shape_of(name: str) -> tuple[int, int, int]:
    return SMALL.get(name, (3, 16, 16))


def build_small(name: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return build(name, classes=7, shape=shape_of(name), **options)


def images_for(name: str, count: int = 2) -> torch.Tensor:
    return torch.randn(count, *shape_of(name), generator=torch.Generator().manual_seed(1))


def size(name: str, classes: int, side: int = 32, channels: int = 3, **options: object) -> tuple[int, int]:
    """Return weights and multiply-adds of convolutions and linear layers, from a forward without data."""
    with torch.device("meta"):
        network = build(name, classes=classes, shape=(channels, side, side), **options).eval()
        images = torch.empty(1, channels, side, side)
    seen: list[tuple[int, int]] = []

    def hook(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        positions = output[0, 0].numel() if isinstance(layer, nn.Conv2d) else 1
        seen.append((layer.weight.numel(), layer.weight.numel() * positions))

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(hook)
    assert network(images).shape == (1, classes)
    return sum(weights for weights, _ in seen), sum(macs for _, macs in seen)


@pytest.mark.parametrize(
    ("name", "classes", "options", "expected"),
    [
        ("vgg19", 10, {}, (20_024_000, 398_136_320)),
        ("vgg19", 100, {}, (20_070_080, 398_182_400)),
        ("vgg16", 10, {"width": 0.5}, (3_680_608, 78_744_064)),
        ("resnet50", 10, {}, (23_467_712, 1_297_829_888)),
        ("resnet50", 100, {}, (23_652_032, 1_298_014_208)),
        ("resnet50", 1000, {"side": 224}, (25_502_912, 4_089_184_256)),
        ("wrn22_2", 10, {}, (1_076_912, 157_730_048)),
        ("resnet20", 10, {}, (270_896, 40_813_184)),
        ("resnet20", 10, {"shortcut": "everywhere"}, (281_904, 42_648_192)),
        ("resnet20", 10, {"shortcut": "pad"}, (270_896 - 2560, 40_813_184 - 2 * 131_072)),  # without two 1x1 convs
        ("resnet32", 10, {"width": 2}, (1_855_584, 275_612_928)),
        ("resnet32", 10, {"width": 2, "shortcut": "everywhere"}, (1_942_624, 289_244_416)),
        ("lenet300", 10, {"side": 28, "channels": 1}, (266_200, 266_200)),
        ("lenet5", 10, {"side": 28, "channels": 1}, (430_500, 2_293_000)),
        ("cnn_fashion", 10, {"side": 28, "channels": 1}, (236_352, 7_607_552)),
    ],
)
def test_weights_and_multiply_adds_are_those_of_the_reference(name, classes, options, expected):
    assert size(name, classes, **options) == expected


@pytest.mark.parametrize("name", [name for name in names() if name not in SMALL])
def test_works_at_64_pixels(name):
    assert size(name, 200, side=64)[1] > 3 * size(name, 200)[1]


@pytest.mark.parametrize("name", [name for name in names() if name != "wrn28_10"])  # 36 M weights, wrn28_2 is its class
def test_every_parameter_gets_a_finite_gradient(name):
    network = build_small(name)
    functional.cross_entropy(network(images_for(name)), torch.tensor([0, 6])).backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", LIGHT)
def test_functional_call_sees_the_weights_given(name):
    network = build_small(name).eval()
    images = images_for(name)
    weights = {key: torch.zeros_like(value) for key, value in network.named_parameters()}
    plain = network(images)
    assert torch.equal(functional_call(network, weights, (images,)), torch.zeros_like(plain))
    assert plain.abs().max() > 0
    assert torch.equal(network(images), plain)


@pytest.mark.parametrize("name", LIGHT)
def test_copy_layout_and_evaluation_do_not_change_the_function(name):
    network = build_small(name).eval()
    images = images_for(name)
    with torch.no_grad():
        plain = network(images)
        assert torch.equal(network(images), plain)
        assert torch.equal(copy.deepcopy(network)(images), plain)
        last = copy.deepcopy(network).to(memory_format=torch.channels_last)
        torch.testing.assert_close(last(images.to(memory_format=torch.channels_last)), plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["digits_cnn", "lenet5", "mlp", "resnet18", "resnet20", "vgg11", "wrn22_2"])
def test_one_graph_without_breaks(name):
    torch.compiler.reset()
    network = build_small(name).eval()
    images = images_for(name)
    with torch.no_grad():
        plain = network(images)
        keys = list(network.state_dict())
        network.compile(backend="eager", fullgraph=True)
        assert torch.equal(network(images), plain)
    assert list(network.state_dict()) == keys


def test_pad_shortcut_appends_zeros():
    network = build_small("resnet20", shortcut="pad").eval()
    shortcut = network.layer2[0].downsample
    stream = torch.arange(2 * 16 * 5 * 5, dtype=torch.float32).reshape(2, 16, 5, 5)
    output = shortcut(stream)
    assert torch.equal(output[:, :16], stream[:, :, ::2, ::2])
    assert output.shape == (2, 32, 3, 3)
    assert not output[:, 16:].any()
    assert not list(shortcut.parameters())


@pytest.mark.parametrize("name", names())
def test_convolutions_before_a_batch_norm_have_no_bias_and_no_relu_is_in_place_or_shared(name):
    with torch.device("meta"):
        network = build(name, classes=10, shape=shape_of(name))
        images = torch.empty(2, *shape_of(name))
    normed = any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())
    calls: dict[nn.Module, int] = {}
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            assert (layer.bias is None) == normed
        if isinstance(layer, nn.ReLU):
            assert not layer.inplace
            layer.register_forward_hook(lambda layer, *_: calls.update({layer: calls.get(layer, 0) + 1}))
    network(images)
    assert set(calls.values()) == {1}


@pytest.mark.parametrize(("depth", "block"), [(18, BasicBlock), (50, Bottleneck)])
def test_weights_load_into_torchvision_and_give_the_same_output(depth, block):
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    ours = build(f"resnet{depth}", classes=20, shape=(3, 96, 96))
    assert isinstance(ours.layer1[0], block)
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        ours(images)  # running statistics that differ from their first values
        theirs = getattr(models, f"resnet{depth}")(num_classes=20)
        theirs.load_state_dict(ours.state_dict(), strict=True)
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_stem_and_classifier_bias_follow_the_image_unless_given():
    def facts(side: int, **options: object) -> tuple[int, bool]:
        with torch.device("meta"):
            network = build("resnet18", classes=10, shape=(3, side, side), **options)
        return network.conv1.kernel_size[0], network.fc.bias is not None

    assert facts(64) == (3, False)
    assert facts(65) == (7, True)
    assert facts(224, stem="cifar") == (3, False)
    assert facts(32, stem="imagenet") == (7, True)
    assert facts(32, fc_bias=True) == (3, True)
    assert facts(224, fc_bias=False) == (7, False)


def test_initial_weights():
    torch.manual_seed(0)
    vgg = build("vgg11", classes=10)
    convolution = vgg.features.conv7.weight
    assert convolution.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)
    assert vgg.fc.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert not vgg.fc.bias.any()
    perceptron = build("lenet300", classes=10, shape=(1, 28, 28))
    assert perceptron.features.fc1.weight.std().item() == pytest.approx((2 / 784) ** 0.5, rel=0.02)
    for name in ("resnet20", "resnet18", "wrn22_2", "digits_cnn"):
        for layer in build_small(name).modules():
            if isinstance(layer, nn.BatchNorm2d):
                assert layer.weight.eq(1).all()
                assert layer.bias.eq(0).all()


def test_same_seed_same_weights():
    for name in ("digits_cnn", "resnet20"):
        first, second = build_small(name).state_dict(), build_small(name).state_dict()
        assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", ["resnet18", "resnet20"])
def test_zero_init_residual_starts_each_block_as_its_shortcut(name):
    network = build_small(name, zero_init_residual=True).eval()
    block = network.layer1[0]
    stream = torch.rand(2, block.conv1.in_channels, 4, 4)
    assert torch.equal(block(stream), stream)
    assert network.layer2[0].bn1.weight.eq(1).all()


def test_wide_block_adds_the_stream_itself_or_the_shortcut_of_the_activation():
    network = build_small("wrn22_2").eval()
    first, second = network.layer1[0], network.layer1[1]
    stream = torch.randn(2, 16, 4, 4)
    for block in (first, second):
        nn.init.zeros_(block.conv2.weight)
    torch.testing.assert_close(first(stream), first.shortcut(first.relu1(first.bn1(stream))))
    wide = torch.randn(2, 32, 4, 4)
    assert torch.equal(second(wide), wide)


def test_options_reach_the_network():
    perceptron = build_small("mlp", hidden=[5, 6])
    assert [layer.out_features for layer in perceptron.modules() if isinstance(layer, nn.Linear)] == [5, 6, 7]
    assert build_small("mlp", hidden=()).fc.in_features == 64
    assert build_small("digits_cnn", width=4).conv3.out_channels == 8
    assert build_small("resnet20", width=0.5).fc.in_features == 32
    assert build_small("wrn22_2", dropout=0.3).layer1[0].dropout.p == 0.3


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vgg91", {}, r"did you mean 'vgg19'.*allowed are .*resnet20.*timm:NAME"),
        ("zzz", {}, r"model 'zzz' is unknown: allowed are"),
        ("resnet20", {"widht": 2}, r"no option 'widht' \(did you mean 'width'\?\): allowed are width, shortcut"),
        ("resnet20", {"depth": 32}, "no option 'depth'"),
        ("lenet300", {"width": 2}, "allowed are initial, batch_norm, norm_outputs"),
        ("vgg19", {"depth": 16}, "allowed are width"),
        ("vgg19", {"width": 0.001}, "at least 1/64"),
        ("resnet20", {"width": 0}, "at least 1/16"),
        ("resnet20", {"shortcut": "conv"}, "allowed are projection, pad, everywhere"),
        ("resnet50", {"stem": "tiny"}, "allowed are auto, cifar, imagenet"),
        ("resnet18", {"fc_bias": "no"}, "allowed are auto, true, false"),
        ("wrn22_2", {"dropout": 1.0}, "below 1"),
        ("mlp", {"hidden": [0]}, "at least 1"),
        ("digits_cnn", {"width": 0}, "at least 1"),
        ("vgg11", {"shape": (3, 15, 32)}, r"at least 16 x 16 pixels, got 15 x 32"),
        ("lenet5", {"shape": (1, 8, 8)}, "at least 16 x 16"),
        ("mlp", {"shape": (8, 8)}, "channels, height, width"),
        ("mlp", {"shape": (1, 0, 8)}, "channels, height, width"),
        ("mlp", {"classes": 0}, "classes"),
    ],
)
def test_bad_input_is_one_clear_line(name, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        build(name, **{"classes": 10, **options})
    assert "\n" not in str(caught.value)


def test_the_folder_of_configurations_is_the_list_of_names():
    assert sorted([*names(), "timm"]) == sorted(path.stem for path in CONFIGS.glob("*.yaml"))


@pytest.mark.parametrize("name", names())
def test_configuration_builds_and_states_every_option_with_its_default(name):
    text = (CONFIGS / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    config = OmegaConf.create(text)
    partial = instantiate(config)
    with torch.device("meta"):
        configured = partial(classes=10, shape=shape_of(name))
        default = build(name, classes=10, shape=shape_of(name))
    assert repr(configured) == repr(default)
    network, fixed = NETWORKS[name]
    options = {key: item.default for key, item in inspect.signature(network).parameters.items() if key not in fixed}
    stated = {key: value for key, value in OmegaConf.to_container(config).items() if not key.startswith("_")}
    assert stated.pop("name") == name
    assert {key: tuple(value) if isinstance(value, list) else value for key, value in stated.items()} == {
        key: value for key, value in options.items() if key not in ("classes", "shape")
    }


def test_importing_models_does_not_import_timm_or_lightning():
    heavy = {"timm", "lightning", "torchvision", "hydra"}
    code = f"import sys, sparsebench.models; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_class_scores_may_be_normalised():
    network = build("lenet300", classes=10, shape=(1, 28, 28), batch_norm=True, norm_outputs=True)
    scores = network(torch.randn(64, 1, 28, 28))
    assert scores.mean(0).abs().max() < 1e-5
    assert (scores.std(0) - 1).abs().max() < 0.05
