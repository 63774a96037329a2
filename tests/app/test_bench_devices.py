"""Benchmarks that run on any device: tiny shapes, rows in JSON; and the patterns that ours are measured beside."""

import json

import pytest
import torch

from sparsebench.app.cli.bench import main
from sparsebench.app.cli.bench.peers import Itop, RiglTorch
from sparsebench.functional.distribution import uniform
from sparsebench.methods import Clock, Probe, RigL
from sparsebench.sparse import SparseModel

TINY = {
    "overhead": ["--model", "mlp", "--methods", "rigl,top_kast,vr_pge", "--size", "8", "--batch", "4"],
    "updates": ["--model", "resnet20", "--size", "32", "--classes", "10"],
    "epochs": ["--model", "mlp", "--size", "8", "--images", "160", "--batch", "8", "--every", "4"],
    "input": ["--images", "256"],
    "loop": ["--steps", "10"],
    "nm": ["--batch", "8"],
}


@pytest.mark.parametrize("subject", TINY)
def test_a_benchmark_leaves_rows(subject, tmp_path, capsys):
    file = tmp_path / "rows.json"
    main([subject, *TINY[subject], "--rounds", "1", "--device", "cpu", "--json", str(file)])
    said = json.loads(file.read_text())
    assert said["command"].startswith(f"sparsebench bench {subject}")
    assert said["hardware"]["torch"] == torch.__version__
    assert len(said["rows"]) >= 1
    assert all(len(row) >= 3 for row in said["rows"])
    assert "medians of 1 rounds" in capsys.readouterr().out
    if subject == "overhead":
        assert [row["method"] for row in said["rows"]] == ["rigl", "top_kast", "vr_pge", "itop", "rigl_torch"]
        assert all(row["why not"] == "" for row in said["rows"])


def test_a_device_that_is_not_there_is_refused(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SystemExit):
        main(["updates", "--device", "cuda"])
    assert "is impossible without a GPU" in capsys.readouterr().err


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = SparseModel.of(torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.Linear(30, 10)))
    RigL(density=0.3, distribution=uniform).start(net, Probe(lambda number: [], lambda weights: torch.zeros(())))
    return net


def test_patterns_choose_what_rigl_chooses(net):
    gradients = {name: torch.randn_like(p) for name, p in net.params.items()}
    itop, other = Itop(net).update(gradients, 0.3), RiglTorch(net).update(gradients, 0.3)
    before = dict(net.counts)
    counting = [(other, "floor"), (itop, "ceil")]
    for found, rounding in counting:
        fresh = SparseModel(net.params)
        fresh.set_masks(net.masks)
        fresh.memory["gradient"] = dict(gradients)
        method = RigL(density=0.3, distribution=uniform, every=1, until=1.0, drop_fraction=0.3, drop_count=rounding)
        method.rewire(fresh, Clock(0, 1000), None)
        assert fresh.counts == before
        assert all(torch.equal(found[name].bool(), mask) for name, mask in fresh.masks.items())


@pytest.mark.parametrize("pattern", [Itop, RiglTorch])
def test_patterns_keep_zeros(net, pattern):
    optimizer = torch.optim.SGD(net.params.values(), lr=0.1, momentum=0.9)
    peer = pattern(net)
    for _ in range(2):
        for parameter in net.params.values():
            parameter.grad = torch.ones_like(parameter)
        peer.before_step(optimizer)
        optimizer.step()
        peer.after_step(optimizer)
    for name, mask in net.masks.items():
        assert not net.params[name].detach()[~mask].any()
        assert not optimizer.state[net.params[name]]["momentum_buffer"][~mask].any()
