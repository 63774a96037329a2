"""Every method with published rules beside a straight evaluation of them: masks after each step, weights at the end.

The traces are computed by ``generate.py``, which shares no code with the package but its random streams. A difference
shows at the first step at which it is made.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import Toy

from sparsebench import methods
from sparsebench.functional.distribution import uniform
from sparsebench.optim import LinBreg
from sparsebench.optim.groups import Together
from sparsebench.patterns import NofM
from sparsebench.sparse import SparseModel

HERE = Path(__file__).parent
TRACES = sorted(path.stem for path in HERE.glob("*.json") if path.stem != "inputs")
EVERY = {
    "set", "rigl", "rigl_itop", "snfs", "dsr", "deep_r", "mest", "granet", "srigl", "cht", "snip", "grasp", "synflow",
    "gmp", "str", "ac_dc", "sr_ste", "top_kast", "linbreg", "probmask", "vr_pge", "dst_ee",
    "dst_thresholds", "gse", "chts", "powerpropagation", "spred", "pilot", "cram",
}  # fmt: skip
GLOBAL = {
    "SNIP", "GraSP", "SynFlow", "GraNet", "STR", "ACDC", "TrainableThresholds", "Powerpropagation", "Spred", "PILoT",
    "CrAM",
}  # fmt: skip


def load(name: str) -> dict[str, Any]:
    return json.loads((HERE / f"{name}.json").read_text())


class Written(Toy):
    """The toy network with the weights and batches of the traces."""

    def __init__(self) -> None:
        super().__init__(widths=(8, 8, 4), bias=False)
        inputs = load("inputs")
        for name, parameter in self.module.named_parameters():
            parameter.data = torch.tensor(inputs["weights"][name]).double().reshape(parameter.shape)
        self.batches = [
            (torch.tensor(batch["images"]).double().reshape(12, 8), torch.tensor(batch["labels"]))
            for batch in inputs["batches"]
        ]
        self.net = SparseModel.of(self.module, seed=0)

    def masks(self) -> dict[str, str]:
        return {
            name: "".join(str(int(bit)) for bit in self.net.mask(name).reshape(-1).tolist()) for name in self.net.params
        }


def method_of(trace: dict[str, Any]) -> Any:
    options = dict(trace["options"])
    if "pattern" in options:
        options["pattern"] = NofM(*options["pattern"])
    kind = getattr(methods, trace["method"])
    if trace["method"] not in GLOBAL | {"VRPGE", "ProbMask"}:
        options["distribution"] = uniform
    return kind(**options)


def optimizer_of(method: Any) -> Any:
    """Return plain SGD; scores with an optimizer of their own beside it."""

    def build(toy: Toy) -> Any:
        own = method.learned_optimizer({"params": list(toy.net.learned.values())}) if toy.net.learned else None
        if own is None:
            return toy.sgd()
        weights = torch.optim.SGD(toy.module.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
        return Together([weights, own])

    return build


def test_every_method_with_published_rules_has_a_trace():
    assert set(TRACES) == EVERY


@pytest.mark.parametrize("name", TRACES)
def test_the_masks_are_those_of_the_published_rule_at_every_step(name):
    trace, toy = load(name), Written()
    if trace["method"] == "LinBreg":
        follow_linbreg(trace, toy)
        return
    method, wanted = method_of(trace), {int(step): masks for step, masks in trace["masks"].items()}
    if 0 in wanted:  # nothing happens after the start
        method.start(toy.net, toy.probe)
        assert toy.masks() == wanted[0]
    else:
        for step in toy.train(method, max(wanted), optimizer=optimizer_of(method), finish=False):
            assert toy.masks() == wanted[step], f"step {step}"
    assert 0 in wanted or len({json.dumps(masks) for masks in wanted.values()}) > 1, "a trace in which nothing happens"
    for layer, parameter in toy.net.params.items():
        end = torch.tensor(trace["weights"][layer]).double().reshape(parameter.shape)
        # the projection on a budget is exact to a few digits
        accuracy = 1e-3 if name in ("vr_pge", "probmask") else 1e-7
        torch.testing.assert_close(parameter.detach(), end, rtol=accuracy, atol=accuracy, msg=f"weights of {layer}")


def follow_linbreg(trace: dict[str, Any], toy: Written) -> None:
    """LinBreg is an optimizer: it makes its zeros itself."""
    for parameter in toy.net.params.values():
        parameter.data *= torch.arange(parameter.numel()).reshape(parameter.shape) % 5 == 0
    optimizer = LinBreg(toy.module.parameters(), **trace["options"])
    for step, wanted in trace["masks"].items():
        optimizer.zero_grad()
        toy.objective(int(step) - 1)({}).backward()
        optimizer.step()
        for name, parameter in toy.net.params.items():
            assert "".join(str(int(value != 0)) for value in parameter.reshape(-1).tolist()) == wanted[name], step
    for name, parameter in toy.net.params.items():
        end = torch.tensor(trace["weights"][name]).double().reshape(parameter.shape)
        torch.testing.assert_close(parameter.detach(), end, rtol=1e-7, atol=1e-7)


def test_the_files_are_what_their_script_writes(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    import generate

    monkeypatch.setattr(generate, "HERE", tmp_path)
    generate.main()
    for name in [*TRACES, "inputs"]:
        assert json.loads((tmp_path / f"{name}.json").read_text()) == load(name), name
