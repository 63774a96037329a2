"""CIFAR-10 and CIFAR-100, kept in memory as bytes."""

import hashlib
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from sparsebench.data.base import ImageData
from sparsebench.data.resident import Resident, Shift


class _CIFAR(ImageData):
    """Read the original pickles, each checked against torchvision's MD5."""

    shape = (3, 32, 32)
    train_images = 50_000
    name: ClassVar[str]  # name of the class in torchvision.datasets
    label_key: ClassVar[bytes]
    mean: ClassVar[tuple[float, ...]]
    std: ClassVar[tuple[float, ...]]

    def check(self) -> None:
        """Find the files, or download them if requested.

        Raises:
            FileNotFoundError: If a file is missing.
        """
        self._folder()

    def read_train(self) -> Resident:
        """Read the 50,000 training images."""
        return self._read("train_list")

    def read_test(self) -> Resident:
        """Read the 10,000 test images."""
        return self._read("test_list")

    def _read(self, which: str) -> Resident:
        folder = self._folder()
        parts = [_unpickle(folder / name, md5) for name, md5 in getattr(self._torchvision(), which)]
        pixels = np.concatenate([part[b"data"] for part in parts]).reshape(-1, 3, 32, 32)
        labels = torch.tensor([label for part in parts for label in part[self.label_key]])
        return Resident(torch.from_numpy(pixels), labels, mean=self.mean, std=self.std, shift=Shift(padding=4))

    def _torchvision(self) -> Any:
        from torchvision import datasets

        return getattr(datasets, self.name)

    def _folder(self) -> Path:
        known = self._torchvision()
        names = [name for name, _ in known.train_list + known.test_list]
        usual = self.root / known.base_folder
        found = _find([usual, self.root], names)
        if found is None and self.download:
            known(str(self.root), download=True)
            found = _find([usual], names)
        if found is None:
            missing = next(name for name in names if not (usual / name).is_file())
            raise FileNotFoundError(
                f"{self.name} is missing: there is no file {(usual / missing).absolute()}; download it with "
                f"dataset.download=true, or put the folder {known.base_folder} (the python version of the set) "
                f"into {self.root.absolute()}, or set data_root"
            )
        return found


def _find(folders: Iterable[Path], names: list[str]) -> Path | None:
    return next((folder for folder in folders if all((folder / name).is_file() for name in names)), None)


def _unpickle(path: Path, md5: str) -> dict[bytes, Any]:
    content = path.read_bytes()
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise ValueError(f"{path.absolute()} is damaged (its MD5 is not {md5}): delete it and download the set again")
    return pickle.loads(content, encoding="bytes")  # trusted: the checksum equals the published file's


class CIFAR10(_CIFAR):
    """Serve CIFAR-10: 60,000 colour images of 32x32, 10 classes; crop with padding 4 and mirror in training.

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """

    classes = 10
    name, label_key = "CIFAR10", b"labels"
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class CIFAR100(_CIFAR):
    """Serve CIFAR-100: 60,000 colour images of 32x32, 100 (fine) classes; crop with padding 4 and mirror in training.

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """

    classes = 100
    name, label_key = "CIFAR100", b"fine_labels"
    mean, std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
