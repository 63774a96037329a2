import hashlib
import pickle

import numpy as np
import pytest
import torch
from torchvision import datasets

from sparsebench.data import CIFAR10, CIFAR100


def write_small(root, monkeypatch):
    """Five files of ten images and a test file, with their checksums in torchvision's tables."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    random, table = np.random.default_rng(0), []
    for name in [f"data_batch_{index}" for index in range(1, 6)] + ["test_batch"]:
        pixels = random.integers(0, 256, (10, 3072), dtype=np.uint8)
        content = pickle.dumps({b"data": pixels, b"labels": list(range(10))})
        (folder / name).write_bytes(content)
        table.append([name, hashlib.md5(content).hexdigest()])
    monkeypatch.setattr(datasets.CIFAR10, "train_list", table[:5])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", table[5:])
    return folder


def message_of(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_files_are_found_under_the_root_or_directly(tmp_path, monkeypatch):
    folder = write_small(tmp_path, monkeypatch)
    for root in (tmp_path, folder):
        data = CIFAR10(root=root, val_share=0.2)
        data.prepare_data()
        assert sum(len(labels) for _, labels in data.val_dataloader()) == 10
        assert sum(len(labels) for _, labels in data.test_dataloader()) == 10


def test_missing_files_say_where_and_how(tmp_path):
    data = CIFAR100(root=tmp_path)  # building a network needs no data
    assert (data.classes, data.shape) == (100, (3, 32, 32))
    with pytest.raises(FileNotFoundError) as caught:
        data.prepare_data()
    text = message_of(caught)
    for part in (str(tmp_path / "cifar-100-python" / "train"), "dataset.download=true", "cifar-100-python (the python"):
        assert part in text


def test_one_missing_file_is_named(tmp_path, monkeypatch):
    (write_small(tmp_path, monkeypatch) / "data_batch_3").unlink()
    with pytest.raises(FileNotFoundError, match="data_batch_3"):
        CIFAR10(root=tmp_path).train_dataloader()


def test_a_damaged_file_is_named(tmp_path, monkeypatch):
    folder = write_small(tmp_path, monkeypatch)
    damaged = bytearray((folder / "data_batch_2").read_bytes())
    damaged[100] ^= 1
    (folder / "data_batch_2").write_bytes(damaged)
    data = CIFAR10(root=tmp_path)
    with pytest.raises(ValueError, match="damaged") as caught:
        data.train_dataloader()
    assert str(folder / "data_batch_2") in message_of(caught)
    assert sum(len(labels) for _, labels in data.test_dataloader()) == 10  # whole


def test_download_is_asked_for_only_if_files_are_missing(tmp_path, monkeypatch):
    asked = []

    def download(self, root, **options):
        asked.append((root, options))
        write_small(tmp_path, monkeypatch)

    monkeypatch.setattr(datasets.CIFAR10, "__init__", download)
    data = CIFAR10(root=tmp_path, download=True)
    data.prepare_data()
    data.prepare_data()
    assert asked == [(str(tmp_path), {"download": True})]


@pytest.mark.parametrize(("cls", "reference"), [(CIFAR10, datasets.CIFAR10), (CIFAR100, datasets.CIFAR100)])
def test_the_real_sets_equal_torchvision_and_are_normalised(cifar_root, cls, reference):
    data = cls(root=cifar_root, batch_size=500)
    assert len(data.train_dataloader()) == 90
    assert data.reads == {"train": 1, "test": 0}
    train, val = data.training_sets()
    assert torch.bincount(val.labels, minlength=data.classes).tolist() == [5000 // data.classes] * data.classes
    assert not train.images.is_floating_point()
    values = torch.arange(256).double() / 255
    for channel, pixels in enumerate(data.read_train().images.unbind(1)):
        share = torch.bincount(pixels.reshape(-1), minlength=256).double() / pixels.numel()
        mean = (share * values).sum()
        assert mean == pytest.approx(cls.mean[channel], abs=1e-4)
        assert (share * (values - mean) ** 2).sum().sqrt() == pytest.approx(cls.std[channel], abs=1e-4)

    theirs = reference(str(cifar_root), train=False)
    ours = data.read_test()
    assert torch.equal(ours.images, torch.from_numpy(theirs.data).permute(0, 3, 1, 2))
    assert ours.labels.tolist() == theirs.targets
