"""The small network learns the embedded digits in seconds, and still does with a tenth of its weights."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from sparsebench.models import build


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    raw = pytest.importorskip("sklearn.datasets").load_digits()
    order = torch.randperm(len(raw.target), generator=torch.Generator().manual_seed(0))
    images = torch.as_tensor(raw.images, dtype=torch.float32)[:, None] / 8 - 1
    return images[order], torch.as_tensor(raw.target)[order].long()


@pytest.fixture(scope="module")
def trained(digits) -> nn.Module:
    torch.manual_seed(0)
    network = build("digits_cnn", classes=10, shape=(1, 8, 8))
    return fit(network, digits, epochs=5, masks={})


def fit(network: nn.Module, digits, *, epochs: int, masks: dict[str, torch.Tensor]) -> nn.Module:
    images, labels = (part[:1437] for part in digits)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=epochs * 22)
    network.train()
    for epoch in range(epochs):
        order = torch.randperm(1437, generator=torch.Generator().manual_seed(epoch))
        for batch in order[: 22 * 64].split(64):
            optimizer.zero_grad()
            functional.cross_entropy(network(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                for name, mask in masks.items():
                    network.get_parameter(name).mul_(mask)
    return network


def accuracy(network: nn.Module, digits) -> float:
    images, labels = (part[1437:] for part in digits)
    with torch.no_grad():
        return (network.eval()(images).argmax(1) == labels).float().mean().item()


def test_learns(trained, digits):
    assert accuracy(trained, digits) > 0.97


def test_keeps_its_accuracy_with_a_tenth_of_the_weights(trained, digits):
    network = copy.deepcopy(trained)
    weights = {name: value for name, value in network.named_parameters() if value.dim() > 1}
    scores = torch.cat([value.detach().abs().reshape(-1) for value in weights.values()])
    threshold = scores.sort().values[int(0.9 * scores.numel())]
    masks = {name: (value.detach().abs() >= threshold).float() for name, value in weights.items()}
    assert sum(mask.sum() for mask in masks.values()) <= 0.101 * scores.numel()
    assert accuracy(fit(network, digits, epochs=3, masks=masks), digits) > 0.95
