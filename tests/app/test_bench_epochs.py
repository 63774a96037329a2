"""``sparsebench bench epochs``: plain loops hold the density and learn; what steps take beside their kernels."""

from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

from sparsebench.app.cli.bench import epochs, plain
from sparsebench.app.cli.bench.options import PARSERS
from sparsebench.app.cli.bench.peers import PEERS
from sparsebench.app.process.console import quieten
from sparsebench.data.resident import Resident

TINY = ["--model", "mlp", "--size", "8", "--images", "160", "--batch", "4", "--every", "4", "--device", "cpu"]


def options(*more):
    return PARSERS["epochs"]().parse_args([*TINY, *more])


@pytest.mark.parametrize("name", PEERS)
def test_a_plain_loop_moves_masks_and_holds_the_density(name, monkeypatch):
    torch.manual_seed(0)
    made, moved = [], []

    class Watched(PEERS[name]):
        def __init__(self, net):
            super().__init__(net)
            made.append(net)

        def update(self, gradients, share):
            before = {n: m.bool().clone() for n, m in self.masks.items()}
            new = super().update(gradients, share)
            moved.append(any(not torch.equal(new[n].bool(), before[n]) for n in new))
            lost = {n: int(m.sum()) - int(new[n].sum()) for n, m in before.items()}
            idle = {n: int((gradients[n] == 0).sum()) for n in before}
            # among weights without a gradient, dead units' here, ITOP's second sort may choose those it has kept
            assert all(count == 0 or (name == "itop" and 0 < count <= idle[n]) for n, count in lost.items())
            return new

    monkeypatch.setitem(epochs.PEERS, name, Watched)
    assert epochs.plain(name, options(), torch.device("cpu")) > 0
    (net,) = made
    assert sum(moved) > 5
    density = sum(int(p.count_nonzero()) for p in net.params.values()) / sum(p.numel() for p in net.params.values())
    assert density == pytest.approx(0.1, abs=0.01) if name != "itop" else 0.05 < density < 0.11


def test_steps_are_compared_with_their_kernels():
    quieten()
    kernels = epochs.Kernels(ProfilerActivity.CPU)
    seconds = epochs.ours(epochs.configured(options(), torch.device("cpu")), kernels)
    step = seconds / 36
    assert 0 < kernels.seconds < 5 * step


def test_kernels_are_counted_once():
    """The host's operators repeat the times of their kernels, and annotations span those of others."""
    kernel = SimpleNamespace(device_type=DeviceType.CUDA, is_user_annotation=False, self_device_time_total=5.0)
    operator = SimpleNamespace(device_type=DeviceType.CPU, is_user_annotation=False, self_device_time_total=5.0)
    span = SimpleNamespace(device_type=DeviceType.CUDA, is_user_annotation=True, self_device_time_total=9.0)
    assert sum(epochs.Kernels()._microseconds(event) for event in (kernel, operator, span)) == 5.0


def test_one_epoch_is_refused(capsys):
    with pytest.raises(SystemExit):
        options("--epochs", "1")
    assert "at least 2" in capsys.readouterr().err


@pytest.mark.parametrize("torchvision", [True, False])
@pytest.mark.parametrize("augment", [True, False])
def test_images_are_normalised_with_and_without_torchvision(torchvision, augment, monkeypatch):
    if not torchvision:
        monkeypatch.setattr(plain.importlib.util, "find_spec", lambda name: None)
    images = torch.full((6, 3, 8, 8), 102, dtype=torch.uint8)
    source = Resident(images, torch.arange(6), mean=(0.4,) * 3, std=(0.5,) * 3)
    loader = plain.image_loader(source, 3, 0, torch.device("cpu"), augment=augment)
    batches = list(loader)
    assert [len(labels) for _, labels in batches] == [3, 3]
    assert all(images.shape == (3, 3, 8, 8) for images, _ in batches)
    middle = torch.stack([images[:, :, 4, 4] for images, _ in batches])
    torch.testing.assert_close(middle, torch.zeros_like(middle), atol=1e-6, rtol=0)
