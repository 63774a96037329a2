"""The handwritten digits that come with scikit-learn: no download, runs of seconds."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from sparsebench.data.base import ImageData
from sparsebench.data.resident import Resident, Shift
from sparsebench.data.split import order_balanced

MEAN, STD = (0.3053,), (0.3759,)  # of all 1797 images
TEST_IMAGES = 360


@lru_cache(maxsize=1)
def _load() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    images = torch.from_numpy(digits.images).mul(255 / 16).round().to(torch.uint8)[:, None]  # 0..16 to bytes
    return images, torch.from_numpy(digits.target).long()


class Digits(ImageData):
    """Serve 1797 grey 8x8 digits: 360 of them, class-balanced and the same for all seeds, are the test set.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI (the copy in scikit-learn).
    """

    classes = 10
    shape = (1, 8, 8)

    def read_train(self) -> Resident:
        """Read the images outside the test set."""
        return self._read(slice(TEST_IMAGES, None))

    def read_test(self) -> Resident:
        """Read the fixed test images."""
        return self._read(slice(TEST_IMAGES))

    def _read(self, part: slice) -> Resident:
        images, labels = _load()
        chosen = order_balanced(labels, seed=0, name="digits-test")[part].sort().values
        # A mirrored digit is no longer a digit, and in 8 pixels a shift by more than one cuts it off.
        return Resident(images[chosen], labels[chosen], mean=MEAN, std=STD, shift=Shift(padding=1, flip=False))
