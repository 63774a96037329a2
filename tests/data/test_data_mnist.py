import struct

import numpy as np
import pytest
import torch

from sparsebench.data import MNIST, FashionMNIST
from sparsebench.runs.fingerprints import fingerprints


def write_small(root, count=20, name="FashionMNIST"):
    """Write the four files in the format of the set."""
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in ("train", "t10k"):  # the files of either set
        pixels = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        (folder / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, *pixels.shape) + pixels.tobytes())
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, count) + labels.tobytes())
    return folder, pixels


def test_the_files_are_read_as_they_are(tmp_path):
    _, pixels = write_small(tmp_path)
    data = FashionMNIST(root=tmp_path, val_share=0.5, batch_size=10)
    data.prepare_data()
    ((images, labels), *_) = data.test_dataloader()
    assert images.shape == (10, 1, 28, 28)
    assert labels.tolist() == list(range(10))
    torch.testing.assert_close(
        images[:, 0], (torch.from_numpy(pixels[:10]).float() / 255 - 0.2860) / 0.3530, atol=1e-5, rtol=0
    )
    assert sum(len(labels) for _, labels in data.val_dataloader()) == 10


def test_a_missing_file_says_where_and_how(tmp_path):
    folder, _ = write_small(tmp_path)
    (folder / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"dataset\.download=true") as caught:
        FashionMNIST(root=tmp_path).prepare_data()
    assert str(folder / "t10k-images-idx3-ubyte") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_download_is_asked_for_only_if_wanted_and_needed(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("torchvision.datasets.FashionMNIST.download", lambda self: asked.append(write_small(tmp_path)))
    data = FashionMNIST(root=tmp_path, download=True)
    data.prepare_data()
    data.prepare_data()
    assert len(asked) == 1


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST])
def test_the_originals_are_what_was_published(kind, mnist_root):
    data = kind(root=mnist_root)
    train, test = data.read_train(), data.read_test()
    assert (len(train), len(test)) == (60_000, 10_000)
    assert train.labels.bincount().sum() == 60_000
    pixels = train.images.float() / 255
    assert pixels.mean() == pytest.approx(data.mean, abs=6e-5)
    assert pixels.std() == pytest.approx(data.std, abs=6e-5)
    config = {"dataset": {"_target_": f"sparsebench.data.{kind.__name__}", "root": str(mnist_root)}}
    assert fingerprints(config) == {}  # the published files need not be named


def test_digits_are_shifted_and_never_mirrored(tmp_path):
    write_small(tmp_path, name="MNIST")
    data = MNIST(root=tmp_path, val_share=0.5, batch_size=10)
    assert not data.read_train().shift.flip
    assert FashionMNIST.shift.flip


def test_other_files_under_the_same_name_have_a_fingerprint(tmp_path):
    write_small(tmp_path, name="MNIST")
    config = {"dataset": {"_target_": "sparsebench.data.MNIST", "root": str(tmp_path)}}
    assert list(fingerprints(config)) == ["data"]


def test_the_last_part_may_be_held_out(tmp_path):
    write_small(tmp_path)
    data = FashionMNIST(root=tmp_path, val_share=0.1, split="last", limit=15)
    train, val = data.training_sets()
    assert val.labels.tolist() == [8, 9]
    assert train.labels.tolist() == [n % 10 for n in range(15)]
    with pytest.raises(ValueError, match="split='first' must be one of random, last"):
        FashionMNIST(root=tmp_path, split="first")


def test_test_images_may_be_limited(tmp_path):
    write_small(tmp_path, 40)
    data = FashionMNIST(root=tmp_path, test_limit=20)
    assert sum(labels.bincount(minlength=10) for _, labels in data.test_dataloader()).tolist() == [2] * 10
    with pytest.raises(ValueError, match="test_limit=0"):
        FashionMNIST(root=tmp_path, test_limit=0)


def test_pixels_may_stay_between_zero_and_one(tmp_path):
    _, pixels = write_small(tmp_path)
    ((images, _), *_) = FashionMNIST(root=tmp_path, normalise=False, val_share=0.0, batch_size=20).test_dataloader()
    torch.testing.assert_close(images[:, 0], torch.from_numpy(pixels).float() / 255)


def test_a_shuffle_of_numpy_chooses_training_and_test_images(tmp_path, monkeypatch):
    """As in the code of SET: seed 0, the training images first, the test images from the same stream."""
    write_small(tmp_path)
    monkeypatch.setattr(FashionMNIST, "train_images", 20)
    np.random.seed(0)
    train, test = np.arange(20), np.arange(20)
    np.random.shuffle(train)
    np.random.shuffle(test)
    data = FashionMNIST(root=tmp_path, split="shuffled", val_share=0.0, limit=15, test_limit=7, augment=False)
    source, held_out = data.training_sets()
    assert held_out is None
    assert torch.equal(source.labels, torch.from_numpy(train[:15] % 10))
    data.test_dataloader()
    assert torch.equal(data._test.labels, torch.from_numpy(test[:7] % 10))
    data = FashionMNIST(root=tmp_path, split="shuffled", val_share=0.25, augment=False)
    assert torch.equal(data.training_sets()[1].labels, torch.from_numpy(train[15:] % 10))
