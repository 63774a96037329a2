"""Any timm model: outputs and channels of the data set, options, near misses."""

import json
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from sparsebench.models import build, build_timm

timm = pytest.importorskip("timm")
CONFIGS = Path(__file__).parents[2] / "conf" / "model"


@pytest.mark.parametrize("name", ["resnet18", "resnet18.a1_in1k"])
def test_classes_and_channels_are_those_of_the_data(name):
    with torch.device("meta"):
        network = build_timm(name, classes=7, shape=(1, 32, 32))
        assert network(torch.empty(2, 1, 32, 32)).shape == (2, 7)


def test_prefix_of_build_gives_the_same_model():
    torch.manual_seed(0)
    first = build("timm:test_resnet", classes=7, shape=(3, 32, 32)).state_dict()
    torch.manual_seed(0)
    second = build_timm("test_resnet", classes=7, shape=(3, 32, 32)).state_dict()
    assert list(first) == list(second)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_options_reach_the_model():
    with torch.device("meta"):
        network = build_timm("vit_tiny_patch16_224", classes=7, shape=(3, 32, 32), img_size=32, patch_size=8)
        assert network(torch.empty(2, 3, 32, 32)).shape == (2, 7)


def test_a_description_in_a_folder_is_taken(tmp_path):
    config = {"architecture": "test_resnet", "pretrained_cfg": {"num_classes": 3}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    network = build_timm(f"local-dir:{tmp_path}", classes=7, shape=(3, 32, 32))
    assert network.get_classifier().out_features == 7


def test_the_configuration_builds():
    config = OmegaConf.load(CONFIGS / "timm.yaml")
    with torch.device("meta"):
        network = instantiate(config)(classes=10, shape=(3, 32, 32))
    assert network.get_classifier().out_features == 10


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet05", {}, r"no model 'resnet05' \(did you mean .*'resnet\d+'.*timm.list_models\(\).*hf-hub:"),
        ("qqqqqqqq", {}, r"no model 'qqqqqqqq': allowed are the names of timm.list_models\(\)"),
        ("test_resnet", {"colour": "red"}, "'test_resnet' cannot be built with colour='red'"),
    ],
)
def test_bad_input_is_one_clear_line(name, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        build(f"timm:{name}", classes=10, **options)
    assert "\n" not in str(caught.value)
