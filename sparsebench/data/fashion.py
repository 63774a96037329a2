"""Fashion-MNIST, kept in memory as bytes."""

from pathlib import Path
from typing import Any

from sparsebench.data.base import ImageData
from sparsebench.data.resident import Resident, Shift


class FashionMNIST(ImageData):
    """Serve Fashion-MNIST: 70,000 grey images of 28x28, 10 classes; read by torchvision.

    Source: H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST, arXiv 1708.07747, 2017.
    """

    classes = 10
    shape = (1, 28, 28)

    def check(self) -> None:
        """Find the files, or download them if that is wanted.

        Raises:
            FileNotFoundError: If a file is missing.
        """
        known = _torchvision()
        folder = self.root / known.__name__ / "raw"
        files = [Path(name).stem for name, _ in known.resources]
        missing = [name for name in files if not (folder / name).is_file()]
        if missing and self.download:
            known(str(self.root), download=True)
        elif missing:
            raise FileNotFoundError(
                f"{known.__name__} is not there: no file {(folder / missing[0]).absolute()}; fetch it with "
                f"dataset.download=true, or put the unpacked files there, or set data_root"
            )

    def read_train(self) -> Resident:
        """Read the 60,000 training images."""
        return self._read(train=True)

    def read_test(self) -> Resident:
        """Read the 10,000 test images."""
        return self._read(train=False)

    def _read(self, *, train: bool) -> Resident:
        self.check()
        known = _torchvision()(str(self.root), train=train)
        return Resident(known.data[:, None], known.targets, mean=(0.2860,), std=(0.3530,), shift=Shift(padding=2))


def _torchvision() -> Any:
    from torchvision import datasets

    return datasets.FashionMNIST
