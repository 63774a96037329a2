import struct

import numpy as np
import pytest
import torch

from sparsebench.data import FashionMNIST


def write_small(root, count=20):
    """Write the four files in the format of the set."""
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in ("train", "t10k"):
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
