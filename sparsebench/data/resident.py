"""Images kept in memory as bytes; cropping, flipping and normalising a batch takes one gather and few passes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from sparsebench.data.loader import Batch, Draw
from sparsebench.functional.random import generator


@dataclass(frozen=True)
class Shift:
    """Augment images by a crop after padding and by mirroring.

    Args:
        padding: Pixels added on every side before the crop, which is the largest shift of the image.
        flip: Whether half of the images are mirrored left to right.
        mode: Content of the border: `zero` (black) or `reflect`.
    """

    padding: int = 4
    flip: bool = True
    mode: str = "zero"

    def __post_init__(self):
        if self.mode not in ("zero", "reflect"):
            raise ValueError(f"padding mode {self.mode!r} is not known: choose zero or reflect")
        if self.padding < 0:
            raise ValueError(f"padding={self.padding} is negative: give 0 or more pixels")

    def draw(self, count: int, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
        """Draw row offset, column offset and mirror bit of every image for one epoch."""
        order_seed, epoch = draw
        random = generator(order_seed, "augment", epoch)
        rows, columns = torch.randint(0, 2 * self.padding + 1, (2, count), generator=random).unbind()
        mirrored = torch.rand(count, generator=random) < 0.5 if self.flip else torch.zeros(count, dtype=torch.bool)
        return rows, columns, mirrored

    def move(self, images: Tensor, rows: Tensor, columns: Tensor, mirrored: Tensor) -> Tensor:
        """Crop and mirror each image [n, C, H, W] as drawn for it."""
        crops = slide(pad(images, self.padding, mode=self.mode), self.padding)
        moved = crops[torch.arange(len(images), device=images.device), rows, columns]
        return flip(moved, mirrored) if self.flip else moved


def pad(images: Tensor, padding: int, *, mode: str = "zero") -> Tensor:
    """Add a border to images [n, C, H, W] of any dtype."""
    if padding == 0:
        return images
    count, channels, height, width = images.shape
    if mode == "reflect":
        if padding >= min(height, width):
            raise ValueError(f"cannot reflect {padding} pixels of a {height}x{width} image: give fewer")
        rows = torch.arange(-padding, height + padding, device=images.device).abs()
        columns = torch.arange(-padding, width + padding, device=images.device).abs()
        rows, columns = (height - 1) - (height - 1 - rows).abs(), (width - 1) - (width - 1 - columns).abs()
        return images[:, :, rows][:, :, :, columns]
    padded = images.new_zeros(count, channels, height + 2 * padding, width + 2 * padding)
    padded[:, :, padding : padding + height, padding : padding + width] = images
    return padded


def slide(padded: Tensor, padding: int) -> Tensor:
    """Return a view of padded images as all their crops, [n, 2p + 1, 2p + 1, C, H, W]."""
    height, width = padded.shape[2] - 2 * padding, padded.shape[3] - 2 * padding
    return padded.unfold(2, height, 1).unfold(3, width, 1).permute(0, 2, 3, 1, 4, 5)


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """Mirror the chosen images [n, C, H, W] left to right."""
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


@lru_cache(maxsize=16)
def _constants(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):  # kept for training even if first requested in evaluation
        centre = torch.tensor(mean, dtype=torch.float64).mul_(255)[:, None, None]
        scale = torch.tensor(std, dtype=torch.float64).mul_(255).reciprocal_()[:, None, None]
        return centre.float().to(device), scale.float().to(device)


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Convert bytes [n, C, H, W] to float32 with mean 0 and deviation 1 per channel; mean and std refer to [0, 1]."""
    centre, scale = _constants(mean, std, images.device)
    return torch.sub(images, centre).mul_(scale)


class Resident:
    """Hold a whole set as bytes and form batches from it on the device.

    The set is padded once; all crops of all images are one sliding-window view of it, so that a batch is a single
    gather `view[image, row, column]`. The tensors move to a device when the first batch is requested on it.

    Args:
        images: uint8 [n, C, H, W].
        labels: int64 [n].
        mean: Per channel, on the scale 0 to 1.
        std: Per channel, on the scale 0 to 1.
        shift: How training images are shifted and mirrored.

    Raises:
        ValueError: If images or labels have another type or shape, or differ in number.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, *, mean: Sequence[float], std: Sequence[float], shift: Shift | None = None
    ):
        if images.dtype != torch.uint8 or images.dim() != 4:
            raise ValueError(
                f"images are {images.dtype} of shape {list(images.shape)}: give bytes (torch.uint8) from 0 to 255, "
                "[n, channels, height, width]"
            )
        if labels.dtype != torch.int64:
            raise ValueError(f"labels are {labels.dtype}: give int64 from 0 to the number of classes - 1")
        if len(images) != len(labels):
            raise ValueError(f"{len(images)} images have {len(labels)} labels: give one label for each image")
        self.images, self.labels = images, labels
        self.mean, self.std, self.shift = tuple(mean), tuple(std), shift or Shift()
        self._padded: Tensor | None = None
        self._moved: dict[str, tuple[str, Tensor]] = {}  # per use: device, and the tensor there

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor) -> "Resident":
        """Copy a subset, in the order of the indices."""
        return Resident(self.images[indices], self.labels[indices], mean=self.mean, std=self.std, shift=self.shift)

    def batches(
        self, indices: Sequence[Tensor], *, device: torch.device | str = "cpu", draw: Draw | None = None
    ) -> Iterator[Batch]:
        """Yield one batch for each index tensor: images float32 [B, C, H, W] and labels int64 [B] on the device.

        Args:
            indices: One int64 tensor [B] per batch.
            device: Device on which the set is kept and the batches are formed.
            draw: (order seed, epoch) of the augmentation; None for unchanged images.
        """
        if not len(indices):
            return
        sizes = [len(batch) for batch in indices]
        chosen = torch.cat(list(indices))
        where = chosen.to(device).split(sizes)  # one transfer for the epoch, none per batch
        labels = self.labels[chosen].to(device).split(sizes)
        if draw is None:
            images = self._keep("images", self.images, device)
            for rows, classes in zip(where, labels, strict=True):
                yield normalise(images[rows], self.mean, self.std), classes
            return
        crops = self._crops(device)
        drawn = [part[chosen].to(device).split(sizes) for part in self.shift.draw(len(self), draw)]
        for rows, classes, top, left, mirrored in zip(where, labels, *drawn, strict=True):
            images = crops[rows, top, left]
            if self.shift.flip:
                images = flip(images, mirrored)
            yield normalise(images, self.mean, self.std), classes

    def _crops(self, device: torch.device | str) -> Tensor:
        padding = self.shift.padding
        if self._padded is None:
            self._padded = pad(self.images, padding, mode=self.shift.mode)
            height, width = self.images.shape[2:]
            # The originals remain as a view of the padded set: one copy in memory, not two.
            self.images = self._padded[:, :, padding : padding + height, padding : padding + width]
        return slide(self._keep("padded", self._padded, device), padding)

    def _keep(self, name: str, tensor: Tensor, device: torch.device | str) -> Tensor:
        if name not in self._moved or self._moved[name][0] != str(device):
            with torch.inference_mode(False):
                self._moved[name] = (str(device), tensor.to(device))
        return self._moved[name][1]
