"""MNIST and its siblings in the same format, kept in memory as bytes."""

from pathlib import Path
from typing import Any, ClassVar

from sparsebench.data.base import ImageData
from sparsebench.data.resident import Resident, Shift


class _MNIST(ImageData):
    """Read the four files of a set through the torchvision class of the same name.

    Args:
        normalise: Whether pixels get mean 0 and deviation 1; otherwise they lie between 0 and 1.
        **options: Those of `ImageData`.
    """

    classes = 10
    shape = (1, 28, 28)
    train_images = 60_000
    mean: ClassVar[float]
    std: ClassVar[float]
    shift: ClassVar[Shift] = Shift(padding=2)

    def __init__(self, *, normalise: bool = True, **options: Any):
        super().__init__(**options)
        self.normalise = normalise

    def check(self) -> None:
        """Find the files, or download them if requested.

        Raises:
            FileNotFoundError: If a file is missing.
        """
        known = self._torchvision()
        folder = self.root / known.__name__ / "raw"
        files = [Path(name).stem for name, _ in known.resources]
        missing = [name for name in files if not (folder / name).is_file()]
        if missing and self.download:
            known(str(self.root), download=True)
        elif missing:
            raise FileNotFoundError(
                f"{known.__name__} is missing: there is no file {(folder / missing[0]).absolute()}; download it with "
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
        known = self._torchvision()(str(self.root), train=train)
        mean, std = (self.mean, self.std) if self.normalise else (0.0, 1.0)
        return Resident(known.data[:, None], known.targets, mean=(mean,), std=(std,), shift=self.shift)

    @classmethod
    def _torchvision(cls) -> Any:
        from torchvision import datasets

        return getattr(datasets, cls.__name__)


class MNIST(_MNIST):
    """Serve MNIST: 70,000 grey images of 28x28 handwritten digits, 10 classes; augmentation shifts, never mirrors.

    Source: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Gradient-Based Learning Applied to Document Recognition, 1998.
    """

    mean, std = 0.1307, 0.3081
    shift = Shift(padding=2, flip=False)


class FashionMNIST(_MNIST):
    """Serve Fashion-MNIST: 70,000 grey images of 28x28, 10 classes of clothes; augmentation shifts and mirrors.

    Source: H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST, arXiv 1708.07747, 2017.
    """

    mean, std = 0.2860, 0.3530
