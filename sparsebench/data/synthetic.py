"""Synthetic images, noise around one pattern per class, of any shape and number, for benchmarks and smoke runs."""

from collections.abc import Sequence
from typing import Any

import torch

from sparsebench.data.base import ImageData
from sparsebench.data.resident import Resident, Shift
from sparsebench.functional.random import generator


class Synthetic(ImageData):
    """Serve random images with classes that a network can learn.

    Args:
        shape: Channels, height and width.
        classes: Number of classes.
        train_size: Training images, held-out ones included.
        test_size: Test images.
        padding: Pixels by which training images may move.
        common: Keywords of `ImageData`; `root` and `download` are not used.

    Raises:
        ValueError: If a size is not positive.
    """

    def __init__(
        self,
        *,
        shape: Sequence[int] = (3, 32, 32),
        classes: int = 10,
        train_size: int = 1024,
        test_size: int = 256,
        padding: int = 4,
        **common: Any,
    ):
        super().__init__(**common)
        if len(shape) != 3 or min(*shape, classes, train_size, test_size) < 1:
            raise ValueError(
                f"shape={list(shape)}, classes={classes}, train_size={train_size}, test_size={test_size}: "
                "give three sizes [channels, height, width] and positive numbers"
            )
        self.shape = (int(shape[0]), int(shape[1]), int(shape[2]))
        self.train_images = train_size
        self.classes, self.sizes, self.padding = classes, {"train": train_size, "test": test_size}, padding

    def read_train(self) -> Resident:
        """Make the training images."""
        return self._make("train")

    def read_test(self) -> Resident:
        """Make the test images, with the same patterns and different noise."""
        return self._make("test")

    def _make(self, part: str) -> Resident:
        patterns = torch.randint(64, 192, (self.classes, *self.shape), generator=generator(0, "synthetic", "patterns"))
        random = generator(0, "synthetic", part)
        labels = torch.arange(self.sizes[part]) % self.classes
        noise = torch.randint(0, 128, (self.sizes[part], *self.shape), generator=random, dtype=torch.uint8)
        images = noise.add_(patterns.sub_(64).to(torch.uint8)[labels])  # 0..254
        channels = self.shape[0]
        shift = Shift(padding=self.padding)
        return Resident(images, labels, mean=(0.5,) * channels, std=(0.2,) * channels, shift=shift)
