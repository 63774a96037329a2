"""The usual way to feed images: a DataLoader whose workers crop, flip and normalise one image at a time."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sparsebench.data.resident import Resident, normalise

PADDING = 4


def image_loader(
    source: Resident, batch: int, workers: int, device: torch.device, *, augment: bool = True
) -> DataLoader[Any]:
    """Return a DataLoader over the images of a source, augmented by torchvision where it is installed."""
    return DataLoader(
        Images(source, augment=augment),
        batch_size=batch,
        shuffle=augment,
        drop_last=augment,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
    )


class Images(Dataset[Any]):
    """Images of a source, each changed by itself."""

    def __init__(self, source: Resident, *, augment: bool) -> None:
        self.labels = source.labels.tolist()
        self.images: list[Any] = list(source.images)
        if importlib.util.find_spec("torchvision") is None:
            self.change = _by_tensors(source, augment=augment)
            return
        from PIL import Image
        from torchvision import transforms

        if source.images.shape[1] == 3:
            self.images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in source.images]
        moves = [transforms.RandomCrop(source.images.shape[-1], padding=PADDING), transforms.RandomHorizontalFlip()]
        still = [transforms.ToTensor(), transforms.Normalize(source.mean, source.std)]
        self.change: Callable[[Any], Tensor] = transforms.Compose([*(moves if augment else []), *still])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.change(self.images[index]), self.labels[index]


def _by_tensors(source: Resident, *, augment: bool) -> Callable[[Tensor], Tensor]:
    """Return the same changes of one image in torch alone."""
    side = source.images.shape[-1]

    def change(image: Tensor) -> Tensor:
        if augment:
            row, column, mirror = torch.randint(0, 2 * PADDING + 1, (3,)).tolist()
            padded = torch.nn.functional.pad(image, (PADDING,) * 4)
            image = padded[:, row : row + side, column : column + side]
            image = image.flip(2) if mirror % 2 else image
        return normalise(image[None], source.mean, source.std)[0]

    return change
