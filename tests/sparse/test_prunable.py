"""Which parameters may be sparse."""

import pytest
import torch
from torch import nn

from sparsebench.sparse import Prunable


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.blocks = nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])
        self.embed = nn.Embedding(5, 4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.head = nn.Linear(4, 2)
        self.position = nn.Parameter(torch.zeros(1, 4))


def names(**options):
    return list(Prunable(**options).select(Net()))


def test_convolution_and_linear_weights_by_default():
    assert names() == ["stem.weight", "blocks.0.weight", "blocks.1.weight", "attention.out_proj.weight", "head.weight"]


def test_no_one_dimensional_parameter_of_a_net_with_norms():
    assert all(p.dim() >= 2 for p in Prunable().select(Net()).values())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"types": ["conv"]}, ["stem.weight"]),
        ({"types": ["embedding"]}, ["embed.weight"]),
        ({"types": ["attention"]}, ["attention.in_proj_weight"]),
        ({"types": [], "include": ["position"]}, ["position"]),
        ({"types": [], "include": ["blocks.*.weight"]}, ["blocks.0.weight", "blocks.1.weight"]),
        ({"types": [], "include": [r"re:^blocks\.[01]\.weight$"]}, ["blocks.0.weight", "blocks.1.weight"]),
        ({"types": [], "include": ["head"]}, ["head.weight", "head.bias"]),
        ({"types": ["linear"], "exclude": ["blocks", "head"]}, ["attention.out_proj.weight"]),
        ({"exclude": ["first", "last"]}, ["blocks.0.weight", "blocks.1.weight", "attention.out_proj.weight"]),
        ({"types": ["conv"], "include": ["head.weight"], "exclude": ["first"]}, ["head.weight"]),
    ],
)  # fmt: skip
def test_three_ways_to_name(options, expected):
    assert names(**options) == expected


def test_order_is_that_of_definition():
    assert names(types=["linear"], include=["stem.weight"])[0] == "stem.weight"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"include": ["block.0.weight"]}, r"'block.0.weight' matches no parameter \(did you mean 'blocks.0.weight'"),
        ({"exclude": ["haed.weight"]}, r"'haed.weight' matches no parameter \(did you mean 'head.weight'"),
        ({"include": ["re:^nothing$"]}, "matches no parameter"),
        ({"types": ["conv"], "exclude": ["first"]}, "no parameter may be sparse.*allow a type or include a name"),
        ({"types": []}, "no parameter may be sparse"),
    ],
)
def test_says_what_is_wrong(options, message):
    with pytest.raises(ValueError, match=message):
        names(**options)


def test_a_bad_regular_expression_is_one_clear_line():
    with pytest.raises(ValueError, match="regular expression") as caught:
        names(include=["re:("])
    assert "\n" not in str(caught.value)


def test_unknown_type():
    with pytest.raises(ValueError, match="'convolution' is unknown: allowed are conv, linear"):
        Prunable(types=["convolution"])


def test_a_shared_weight_counts_once():
    net = Net()
    net.head.weight = net.blocks[0].weight = nn.Parameter(torch.zeros(4, 4))
    assert "head.weight" not in Prunable().select(net)
    assert "blocks.0.weight" in Prunable().select(net)


def test_timm_vision_transformer():
    timm = pytest.importorskip("timm")
    net = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=16, depth=2, num_classes=10)
    chosen = Prunable().select(net)
    assert all(p.dim() >= 2 for p in chosen.values())
    per_block = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
    blocks = [f"blocks.{i}.{part}.weight" for i in range(2) for part in per_block]
    assert list(chosen) == ["patch_embed.proj.weight", *blocks, "head.weight"]
