"""The examples of README.md and CONTRIBUTING.md run as they stand."""

import re
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from sparsebench.methods import RigL
from sparsebench.models import build

ROOT = Path(__file__).resolve().parents[1]


def blocks(document: str) -> list[str]:
    text = (ROOT / document).read_text()
    return [re.sub(r"(?m)^   ", "", b) for b in re.findall(r"```python\n(.*?)```", text, re.S)]


def data(batches: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(8, 1, 8, 8, generator=generator), torch.randint(10, (8,), generator=generator))
        for _ in range(batches)
    ]


class YourModule(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = build("digits_cnn", classes=10, shape=(1, 8, 8))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


SHORT = pytest.mark.filterwarnings("ignore:no mask update falls into")  # a few steps, so that tests are fast


@SHORT
def test_the_lightning_example_trains_a_sparse_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    code = blocks("README.md")[0].replace("max_epochs=10,", "max_epochs=2, enable_checkpointing=False, **quiet,")
    names = {"YourModule": YourModule, "your_data": DataLoader(data(), batch_size=None), "quiet": quiet}
    exec(code, names)
    weights = [p for p in names["trainer"].lightning_module.net.parameters() if p.dim() > 1]
    zeros = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
    assert abs(zeros - 0.9) < 1e-3


@SHORT
def test_the_bare_loop_trains_a_sparse_network():
    model = build("digits_cnn", classes=10, shape=(1, 8, 8))
    names = {
        "model": model,
        "criterion": nn.functional.cross_entropy,
        "batches": list(data()),
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
    }
    exec(blocks("README.md")[1], names)
    net = names["loop"].net
    assert abs(net.density - 0.1) < 1e-4
    assert all(bool((p[~net.masks[n]] == 0).all()) for n, p in net.params.items())


def test_the_method_of_the_contributing_guide_rewires():
    names = {"dataclass": dataclass, "RigL": RigL}
    exec(blocks("CONTRIBUTING.md")[0], names)
    model = build("digits_cnn", classes=10, shape=(1, 8, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    from sparsebench.methods import Clock
    from sparsebench.sparse import SparseModel

    net, method = SparseModel.of(model), names["Curious"](density=0.1, every=2)
    method.start(net, None)
    before = net.digest()
    for step, (images, labels) in enumerate(data()):
        nn.functional.cross_entropy(model(images), labels).backward()
        method.before_step(net, Clock(step, 4), optimizer)
        optimizer.step()
        method.after_step(net, Clock(step + 1, 4), optimizer)
        optimizer.zero_grad()
    assert net.digest() != before
