"""Methods work in a bare PyTorch loop: no Lightning, no Hydra. The example of the documentation."""

import sys

import torch
from torch import nn

from sparsebench.methods import Clock, Probe, RigL
from sparsebench.sparse import SparseModel


def test_rigl_trains_digits_in_a_bare_loop():
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = torch.from_numpy(digits.images).float() / 16, torch.from_numpy(digits.target)

    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)

    net = SparseModel.of(module)
    method = RigL(density=0.1, every=20)
    method.start(net, Probe(lambda number: [], lambda weights: torch.zeros(())))
    for step in range(200):
        batch = torch.randint(0, 1400, (64,))
        loss = nn.functional.cross_entropy(module(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        method.before_step(net, Clock(step, 200), optimizer)
        optimizer.step()
        method.after_step(net, Clock(step + 1, 200), optimizer)

    accuracy = (module(images[1400:]).argmax(1) == labels[1400:]).float().mean()
    assert accuracy > 0.8
    assert sum(net.counts.values()) == round(0.1 * (64 * 64 + 64 * 10))
    assert sum(int((p != 0).sum()) for p in net.params.values()) <= sum(net.counts.values())


def test_the_lower_floors_import_torch_only():
    import subprocess

    code = (
        "import sys, sparsebench.methods, sparsebench.sparse, sparsebench.functional.select;"
        "print(*{m.split('.')[0] for m in sys.modules} & {'lightning', 'hydra', 'timm', 'torchvision', 'torchmetrics'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == []
