"""Back ends behind one interface: in a bare loop, in the engine, from the command line, and one of a stranger."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from sparsebench.app.config.compose import compose_config
from sparsebench.app.main import main
from sparsebench.cost.ledger import Ledger
from sparsebench.execution import ChannelNetwork, Fastest, MaskedChannels, StoredZeros, build_backend
from sparsebench.execution.channel_graph import ChannelGraph
from sparsebench.functional.distribution import uniform
from sparsebench.methods import SET, VRPGE, Clock, Executor, RigL, Static
from sparsebench.models import build
from sparsebench.patterns import Channels
from sparsebench.sparse import Prunable, SparseModel

PAGE = Path(__file__).resolve().parents[2] / "docs/howto/back_end.md"
SHORT = ["trainer.max_epochs=2", "dataset.limit=128", "dataset.batch_size=16", "progress=none", "every=3"]


def sources():
    return dict(re.findall(r"`(mine/\S+)`:\n\n```python\n(.*?)```", PAGE.read_text(), re.S))


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """The back end of the how-to page, written into a folder as the page says."""
    for name, text in sources().items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "mine"), *sys.path])
    yield tmp_path
    sys.modules.pop("live_inputs", None)


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Linear(30, 3)).double()


def objective(net):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(16, 40, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (16,), generator=generator)
    return lambda w: nn.functional.cross_entropy(torch.func.functional_call(net, dict(w), (images,)), labels)


def trained(method, execution, steps=9):
    net = mlp()
    model, loss = SparseModel.of(net, seed=3), objective(net)
    executor = Executor(method, model, execution)
    method.start(model, None)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    costs = []
    for step in range(steps):
        optimizer.zero_grad()
        executor.loss(loss, Clock(step, steps)).backward()
        costs.append(executor.cost(Clock(step, steps)))
        method.before_step(model, Clock(step, steps), optimizer)
        optimizer.step()
        method.after_step(model, Clock(step + 1, steps), optimizer)
    executor.finish()
    return net, model, costs


@pytest.mark.parametrize("kind", [SET, RigL])
def test_the_back_end_of_the_page_trains_the_same_network(stranger, kind):
    from live_inputs import LiveInputs

    method = kind(density=0.04, distribution=uniform, every=3)
    ways = [trained(method, execution) for execution in (None, "masked", LiveInputs)]
    for net, model, _ in ways[1:]:
        assert all(torch.equal(model.masks[name], mask) for name, mask in ways[0][1].masks.items())
        for name, value in net.state_dict().items():
            assert torch.allclose(value, ways[0][0].state_dict()[name], rtol=1e-10, atol=1e-12), name
    nominal, _, executed = ways[2][2][0]
    assert nominal == ways[0][2][0][0], "what a method states holds for every back end of stored zeros"
    columns = [share < 1 for share in executed.forward[0].values()]
    assert any(columns)
    assert all(cost[2] is None for cost in ways[0][2] + ways[1][2])
    dense = [executed is None for _, _, executed in ways[2][2]]
    assert any(dense) == (kind is RigL), "steps that look at dense gradients run, and are counted, in full"


def test_statistics_can_be_left_alone_by_the_back_end_of_the_page(stranger):
    from live_inputs import LiveInputs

    net = mlp()
    model = SparseModel.of(net)
    model.set_masks({name: torch.rand(p.shape) < 0.1 for name, p in model.params.items()})
    network, before = LiveInputs(model), net[1].running_mean.clone()
    network.run(objective(net), model.masks, statistics=False)
    assert torch.equal(net[1].running_mean, before)
    network.run(objective(net), model.masks)
    assert not torch.equal(net[1].running_mean, before)
    assert "forward" not in vars(net[0])


def test_the_back_end_of_the_page_runs_from_the_command_line_and_names_the_run(stranger):
    command = re.search(r"sparsebench (train --config-dir mine .*)", PAGE.read_text())[1].split()
    for execution in ("null", "live_inputs.LiveInputs"):
        words = [word for word in command[1:] if not word.startswith("execution=")]
        main(["train", *words, f"execution={execution}", f"run_dir={stranger}/{execution}", *SHORT])
    results = [json.loads((stranger / e / "result.json").read_text()) for e in ("null", "live_inputs.LiveInputs")]
    assert results[0]["test_accuracy"] == results[1]["test_accuracy"]
    assert results[1]["executed_flops_ratio"] < 1
    words = ["method=set", "model=lenet300", "execution=live_inputs.LiveInputs"]
    assert "live_inputs" in compose_config(words)["fingerprints"]


def test_a_back_end_that_cannot_be_imported_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["train", "execution=nowhere.Small", f"run_dir={tmp_path}/run", *SHORT])
    assert "execution=nowhere.Small cannot be imported" in capsys.readouterr().err


def test_names_stand_for_back_ends():
    net = build("resnet20", classes=10, shape=(3, 32, 32))
    model = SparseModel.of(net, Prunable(types=["conv"]))
    kinds = {"compact": ChannelNetwork, "masked": MaskedChannels, "auto": Fastest}
    for name, kind in kinds.items():
        assert type(build_backend(name, model, channels=True, who="Static")) is kind
    assert type(build_backend("masked", model, channels=False, who="Static")) is StoredZeros
    with pytest.raises(ValueError, match="execution=compact needs whole output channels, which Static does not prune"):
        build_backend("compact", model, channels=False, who="Static")
    with pytest.raises(ValueError, match=r"SparseModel.of\(module\)"):
        build_backend("masked", SparseModel(dict(net.named_parameters())), channels=False, who="Static")


def test_the_engine_overrules_what_a_method_asks_for():
    net = build("resnet20", classes=10, shape=(3, 32, 32))
    for execution, kind in ((None, ChannelNetwork), ("masked", MaskedChannels), ("auto", Fastest)):
        model = SparseModel.of(net)
        method = VRPGE(density=0.5)
        Executor(method, model, execution)
        assert type(method.network(model)) is kind
        assert "runtime" not in str(model.state_dict().keys())


def counting(monkeypatch):
    walks = []
    find = ChannelGraph.find
    monkeypatch.setattr(ChannelGraph, "find", lambda self, *a, **k: (walks.append(1), find(self, *a, **k))[1])
    return walks


def test_live_channels_are_found_once_for_each_draw(monkeypatch):
    walks = counting(monkeypatch)
    net = build("resnet20", classes=10, shape=(3, 32, 32))
    method, model = VRPGE(density=0.5), SparseModel.of(net)
    model.learned = {name: nn.Parameter(score) for name, score in method.learned(model).items()}
    images = torch.randn(2, 3, 32, 32)
    method.loss(model, lambda w: torch.func.functional_call(net, dict(w), (images,)).square().mean())
    ledger = Ledger([])
    ledger.charge(method.passes(model, Clock(0, 9)), model.densities, 2, executed=method.executed(model, Clock(0, 9)))
    assert len(walks) == 4, "two draws: live channels, and those of round widths"


def test_live_channels_of_stored_masks_are_found_once_for_each_change(monkeypatch):
    walks = counting(monkeypatch)
    net = build("resnet20", classes=10, shape=(3, 32, 32))
    model = SparseModel.of(net, Prunable(types=["conv"]))
    method = Static(density=0.5, distribution=uniform, pattern=Channels())
    executor = Executor(method, model, "compact")
    method.start(model, None)
    images = torch.randn(2, 3, 32, 32)
    for step in range(3):
        executor.loss(lambda w: torch.func.functional_call(net, dict(w), (images,)).mean(), Clock(step, 9))
        executor.cost(Clock(step, 9))
    assert len(walks) == 2
    model.set_masks({"conv1.weight": torch.ones_like(model.masks["conv1.weight"])})
    assert executor.cost(Clock(3, 9))[0].forward[0]["conv1.weight"] == 1.0
    assert len(walks) == 4
    state = model.state_dict()
    state["tensors"]["masks/conv1.weight"] = torch.arange(16).reshape(16, 1, 1, 1).expand(16, 3, 3, 3) < 4
    model.load_state_dict(state)  # as many changes, other masks
    assert executor.cost(Clock(3, 9))[0].forward[0]["conv1.weight"] == 0.25


def test_a_network_says_which_layers_its_masks_cut():
    net = build("resnet20", classes=10, shape=(3, 32, 32))
    text = str(ChannelNetwork.of(net, dict(net.named_parameters()), residual="tied"))
    lines = [line.strip() for line in text.splitlines()]
    assert lines[0] == "ChannelNetwork of CifarResNet: 12 masks over 448 channels, 9 residual sums"
    first = next(line for line in lines if line.startswith("layer1.0.conv1"))
    assert first.split(None, 1)[1] == (
        "16 channels: outputs of layer1.0.conv1; norms layer1.0.bn1; inputs of layer1.0.conv2"
    )
    assert "conv1 = layer1.0.conv2 = layer1.1.conv2 = layer1.2.conv2" in lines
    assert any(line.endswith("= conv1 + layer1.0.conv2") for line in lines)
    assert str(MaskedChannels(ChannelNetwork.of(net, dict(net.named_parameters())))).startswith("MaskedChannels, Chan")
