"""Which parameters may be sparse."""

import pytest
import torch
import torch.nn.utils.prune
from torch import nn

from sparsebench.functional.distribution import erk, uniform
from sparsebench.methods import Clock, Probe, RigL, Static
from sparsebench.patterns import Channels, FanIn, NofM
from sparsebench.sparse import Prunable, SparseModel

NO_PROBE = Probe(lambda number: [], lambda weights: torch.zeros(()))


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
    attention = ["attention.in_proj_weight", "attention.out_proj.weight"]
    assert names() == ["stem.weight", "blocks.0.weight", "blocks.1.weight", *attention, "head.weight"]


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
        ({"types": ["linear"], "exclude": ["blocks", "head"]},
         ["attention.in_proj_weight", "attention.out_proj.weight"]),
        ({"exclude": ["first", "last", "attention"]}, ["blocks.0.weight", "blocks.1.weight"]),
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


@pytest.mark.parametrize("head_first", [True, False])
def test_a_shared_weight_needs_every_owner_whatever_the_order(head_first):
    """An embedding and the head tied to it stay dense under types that leave embeddings out, or are named."""
    net = nn.Module()
    parts = {"emb": nn.Embedding(8, 4), "mid": nn.Linear(4, 4), "head": nn.Linear(4, 8, bias=False)}
    for name in ("head", "mid", "emb") if head_first else ("emb", "mid", "head"):
        net.add_module(name, parts[name])
    net.head.weight = net.emb.weight
    first = "head.weight" if head_first else "emb.weight"
    why = "shared with emb.weight, whose type" if head_first else "shared with head.weight; its own type"
    with pytest.warns(UserWarning, match=rf"left dense.*{first} \({why} is not among conv"):
        assert list(Prunable().select(net)) == ["mid.weight"]
    assert set(Prunable(types=["linear", "embedding"]).select(net)) == {"mid.weight", first}
    for alias in ("head.weight", "emb.weight"):
        assert set(Prunable(include=[alias]).select(net)) == {"mid.weight", first}
        assert list(Prunable(exclude=[alias]).select(net)) == ["mid.weight"]


def test_frozen_parameters_stay_out_and_are_named():
    net = Net()
    net.stem.requires_grad_(False)
    net.blocks.requires_grad_(False)
    with pytest.warns(UserWarning, match="stem.weight, blocks.0.weight, blocks.1.weight .frozen, requires_grad=False"):
        chosen = Prunable().select(net)
    assert list(chosen) == ["attention.in_proj_weight", "attention.out_proj.weight", "head.weight"]
    with pytest.warns(UserWarning, match="frozen"), pytest.raises(ValueError, match=r"\(1 are frozen\); allow a type"):
        Prunable(types=["conv"]).select(net)


def test_low_rank_factors_are_linear_layers_and_may_be_left_out_by_name():
    """As in LoRA: the base is frozen and outside of the budget, its factors are trained and may be sparse."""
    net = nn.ModuleDict({"base": nn.Linear(8, 8), "lora_A": nn.Linear(8, 2), "lora_B": nn.Linear(2, 8), "head": Net()})
    net["base"].requires_grad_(False)
    with pytest.warns(UserWarning, match=r"base\.weight .frozen"):
        assert list(Prunable(types=["linear"]).select(net))[:2] == ["lora_A.weight", "lora_B.weight"]
    with pytest.warns(UserWarning, match="frozen"):
        chosen = list(Prunable(types=["linear"], exclude=["lora_A", "lora_B"]).select(net))
    assert chosen[0] == "head.blocks.0.weight"


def test_attention_has_its_matrices_and_never_its_biases():
    net = nn.MultiheadAttention(4, 2, add_bias_kv=True, kdim=6, vdim=6)
    for types in (["linear"], ["attention"]):
        chosen = list(Prunable(types=types).select(net))
        assert [name for name in chosen if "bias" in name] == []
        assert chosen[:3] == ["q_proj_weight", "k_proj_weight", "v_proj_weight"]


def test_recurrent_layers_are_served_or_named():
    net = nn.ModuleDict({"rnn": nn.LSTM(4, 5, num_layers=2), "cell": nn.GRUCell(4, 5), "fc": nn.Linear(5, 2)})
    with pytest.warns(UserWarning, match="rnn.weight_ih_l0.* and 2 more .recurrent: add recurrent to the types"):
        assert list(Prunable().select(net)) == ["fc.weight"]
    chosen = list(Prunable(types=["linear", "recurrent"]).select(net))
    layers = ["rnn.weight_ih_l0", "rnn.weight_hh_l0", "rnn.weight_ih_l1", "rnn.weight_hh_l1"]
    assert chosen == [*layers, "cell.weight_ih", "cell.weight_hh", "fc.weight"]


class Conv1D(nn.Module):
    """As Hugging Face's: a linear layer of weight (in, out)."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.weight, self.bias = nf, nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.zeros(nf))


def test_hugging_face_linear_layers_are_linear():
    net = nn.Sequential(Conv1D(4, 6), nn.Linear(4, 2))
    assert list(Prunable().select(net)) == ["0.weight", "1.weight"]
    assert SparseModel.of(net).transposed == {"0.weight"}


def test_patterns_with_a_direction_refuse_transposed_layers_by_name():
    net = SparseModel.of(nn.Sequential(nn.Conv2d(4, 8, 3), nn.ConvTranspose2d(8, 4, 3)))
    for pattern in (FanIn(), Channels(0), NofM(2, 4)):
        with pytest.raises(ValueError, match=r"first dimension of 1.weight counts inputs .*exclude=\[1.weight\]"):
            Static(density=0.5, distribution=uniform, pattern=pattern).budget(net)
    assert Static(density=0.5, distribution=uniform).budget(net) == {"0.weight": 144, "1.weight": 144}


class Experts(nn.Module):
    """As the experts of Mixtral: one tensor for all."""

    def __init__(self):
        super().__init__()
        self.gate, self.router = nn.Parameter(torch.randn(4, 8, 8)), nn.Linear(8, 4)


def test_large_matrices_of_unknown_layers_are_named():
    """They were dense without a word: of a mixture of experts nearly all."""
    net = nn.Sequential(nn.Linear(8, 8), Experts(), nn.LayerNorm((4, 8)))
    with pytest.warns(UserWarning, match=r"1\.gate \(of a layer of unknown type: name it in include"):
        assert list(Prunable().select(net)) == ["0.weight", "1.router.weight"]
    for options in ({"include": ["1.gate"]}, {"exclude": ["1.gate"]}, {"types": ["conv"], "include": ["0.weight"]}):
        assert ("1.gate" in Prunable(**options).select(net)) == (options == {"include": ["1.gate"]})
    small = nn.Sequential(nn.Linear(80, 80), Experts())
    assert "1.gate" not in Prunable().select(small), "a tenth of the others is not worth a warning"


# -- weights that a layer computes from others -------------------------------------------------------------------------

DEPRECATED = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
NORMS = [nn.utils.parametrizations.weight_norm, pytest.param(nn.utils.weight_norm, marks=DEPRECATED)]


@pytest.mark.parametrize("weight_norm", NORMS)
@pytest.mark.parametrize("distribution", [uniform, erk])
def test_of_weight_norm_the_direction_is_sparse_and_no_row_is_lost(weight_norm, distribution):
    torch.manual_seed(0)
    module = nn.Sequential(weight_norm(nn.Linear(64, 128)), nn.ReLU(), nn.Linear(128, 10))
    net = SparseModel.of(module)
    method = Static(density=0.05, distribution=distribution)
    method.start(net, NO_PROBE)
    assert net.counts == method.budget(net)
    module(torch.randn(4, 64))
    weight = module[0].weight
    assert not weight.isnan().any()
    assert int((weight != 0).sum()) == net.counts[next(iter(net.params))]
    assert sum(p.numel() for p in net.params.values()) == 64 * 128 + 128 * 10
    assert (weight != 0).any(dim=1).all()


def test_weight_norm_trains_through_every_update():
    """Where rewiring takes all that a row had, and what grows starts at zero, the strongest weight stays."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(16, 40)), nn.ReLU(), nn.Linear(40, 4))
    net = SparseModel.of(module)
    method = RigL(density=0.1, every=2, drop_fraction=0.9, until=1.0, distribution=uniform)
    method.start(net, NO_PROBE)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    for step in range(40):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(module(torch.randn(8, 16)), torch.randint(4, (8,)))
        assert loss.isfinite()
        loss.backward()
        method.before_step(net, Clock(step, 40), optimizer)
        optimizer.step()
        method.after_step(net, Clock(step + 1, 40), optimizer)
        assert sum(net.counts.values()) == round(0.1 * (16 * 40 + 40 * 4))


def test_a_row_without_any_weight_is_refused_where_nothing_can_be_kept():
    net = SparseModel.of(nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 8)), nn.Linear(8, 80)))
    with pytest.raises(ValueError, match="weight_norm divides by its norm: lower the sparsity"):
        Static(density=0.1, distribution=uniform).start(net, NO_PROBE)


def test_spectral_norm_is_served_and_other_parametrizations_are_refused_by_name():
    module = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)), nn.Linear(8, 2))
    net = SparseModel.of(module)
    Static(density=0.25, distribution=uniform).start(net, NO_PROBE)
    assert int((module[0].weight != 0).sum()) == 16
    strange = nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(8, 8)), nn.Linear(8, 2))
    with pytest.raises(ValueError, match=r"0.parametrizations.weight.original is used through _?Orth.*exclude=\["):
        Prunable().select(strange)
    assert list(Prunable(exclude=["0"]).select(strange)) == ["1.weight"]
    masked = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    nn.utils.prune.l1_unstructured(masked[0], "weight", 0.5)
    with pytest.raises(ValueError, match=r"0.weight_orig already has a mask of torch.nn.utils.prune"):
        Prunable().select(masked)


def test_timm_vision_transformer():
    timm = pytest.importorskip("timm")
    net = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=16, depth=2, num_classes=10)
    chosen = Prunable().select(net)
    assert all(p.dim() >= 2 for p in chosen.values())
    per_block = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
    blocks = [f"blocks.{i}.{part}.weight" for i in range(2) for part in per_block]
    assert list(chosen) == ["patch_embed.proj.weight", *blocks, "head.weight"]
