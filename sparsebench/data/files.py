"""Images read from files one by one, in this process or by workers, with identical pixels."""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sparsebench.data.loader import Batch, Draw
from sparsebench.data.resident import Resident, Shift, normalise
from sparsebench.functional.random import generator

if TYPE_CHECKING:  # imported when the first image is read: data in memory need no decoder
    from PIL.Image import Image


def _torchvision() -> Any:
    # Imported when the first image is read, and untyped: its signatures say tensors although it accepts images too.
    from torchvision.transforms.v2 import functional

    return functional


@dataclass(frozen=True)
class Zoom:
    """Resize images of any size to squares: a random part of each in training, the centre in evaluation.

    Args:
        size: Height and width of the result.
        resize: Length of the short side before the centre is cut out.
        scale: Smallest and largest share of the area that a training crop keeps.
        ratio: Smallest and largest width over height of a training crop.

    Source: C. Szegedy et al., Going Deeper with Convolutions, 2015, section 6, for the training crop.
    """

    size: tuple[int, int] = (224, 224)
    resize: int = 256
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def train(self, image: "Image", random: torch.Generator) -> Tensor:
        """Crop a random box, resize it, mirror half of the images; uint8 [3, H, W]."""
        F = _torchvision()
        box = F.resized_crop(image, *self.draw_box(image.height, image.width, random), list(self.size))
        mirrored = torch.rand((), generator=random).item() < 0.5
        return F.pil_to_tensor(F.horizontal_flip(box) if mirrored else box)

    def evaluate(self, image: "Image") -> Tensor:
        """Resize the short side and crop the centre; uint8 [3, H, W]."""
        F = _torchvision()
        return F.pil_to_tensor(F.center_crop(F.resize(image, [self.resize]), list(self.size)))

    def draw_box(self, height: int, width: int, random: torch.Generator) -> tuple[int, int, int, int]:
        """Draw top, left, height, width: area uniform in `scale`, log of the ratio uniform, up to ten tries."""
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for part, shape, down, right in torch.rand(10, 4, generator=random).tolist():
            area = height * width * (self.scale[0] + part * (self.scale[1] - self.scale[0]))
            ratio = math.exp(low + shape * (high - low))
            tall, wide = round((area / ratio) ** 0.5), round((area * ratio) ** 0.5)
            if 0 < tall <= height and 0 < wide <= width:
                return int(down * (height - tall + 1)), int(right * (width - wide + 1)), tall, wide
        # No box fits, as in a very long image: take the largest centred box with an allowed ratio.
        wide = min(width, max(1, round(height * self.ratio[1])))
        tall = min(height, max(1, round(width / self.ratio[0])))
        return (height - tall) // 2, (width - wide) // 2, tall, wide


def decode(path: str) -> "Image":
    """Read an image file as RGB; 16-bit pixels are scaled to 8 bits.

    Raises:
        ValueError: If the file is not a complete image, or has pixels that cannot be scaled; the message names the
            file.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode == "F":
                raise ValueError("its pixels are floating-point numbers of unknown scale")
            if image.mode.startswith("I"):  # convert() would clip values above 255
                pixels = np.asarray(image, dtype=np.int64)
                if pixels.min() < 0 or pixels.max() > 65535:
                    raise ValueError(f"its pixels are {pixels.min()} to {pixels.max()}, beyond 16 bits")
                return Image.fromarray((pixels / 257).round().astype(np.uint8)).convert("RGB")
            return image.convert("RGB")
    except Exception as error:  # decoders raise many kinds of errors
        said = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as an image ({said}): download it again or delete it") from error


@dataclass(frozen=True)
class Files:
    """Hold paths and labels, and read the files to form batches.

    Augmentation depends only on (order seed, epoch, index of the image), neither on the number of workers nor on
    earlier reads.

    Args:
        paths: The files.
        labels: int64 [n].
        mean: Per channel, on the scale 0 to 1.
        std: Per channel, on the scale 0 to 1.
        change: A `Zoom` for images of any size, or a `Shift` for images that already have the right size.
        workers: Processes that read ahead; 0 reads in this process.
    """

    paths: tuple[str, ...]
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    change: Zoom | Shift
    workers: int = 0

    def __len__(self) -> int:
        return len(self.paths)

    def select(self, indices: Tensor) -> "Files":
        """Return a subset, in the order of the indices."""
        return replace(self, paths=tuple(self.paths[i] for i in indices.tolist()), labels=self.labels[indices])

    def batches(
        self, indices: Sequence[Tensor], *, device: torch.device | str = "cpu", draw: Draw | None = None
    ) -> Iterator[Batch]:
        """Yield one batch for each index tensor: images float32 [B, C, H, W] and labels int64 [B] on the device.

        Workers and device exchange bytes, a quarter of the traffic of floats.
        """
        drawn = self.change.draw(len(self), draw) if isinstance(self.change, Shift) and draw else None
        for rows, images in zip(indices, self._read(indices, device=device, draw=draw), strict=True):
            if isinstance(self.change, Shift) and drawn:
                images = self.change.move(images, *(part[rows] for part in drawn))
            images, labels = images.to(device, non_blocking=True), self.labels[rows].to(device, non_blocking=True)
            yield normalise(images, self.mean, self.std), labels

    def pixels(self, index: int, draw: Draw | None) -> Tensor:
        """Read one image, zoomed if that is its transformation; uint8 [3, H, W]."""
        image = decode(self.paths[index])
        if isinstance(self.change, Shift):
            return _torchvision().pil_to_tensor(image)
        if draw is None:
            return self.change.evaluate(image)
        return self.change.train(image, generator(draw[0], "augment", draw[1], index))

    def load(self) -> Resident:
        """Read all images, which must have the same size, into memory."""
        assert isinstance(self.change, Shift)
        with ThreadPoolExecutor(max(1, self.workers)) as pool:  # decoding releases the interpreter lock
            images = torch.stack(list(pool.map(lambda index: self.pixels(index, None), range(len(self)))))
        return Resident(images, self.labels, mean=self.mean, std=self.std, shift=self.change)

    def _read(self, indices: Sequence[Tensor], *, device: torch.device | str, draw: Draw | None) -> Iterator[Tensor]:
        plan = [rows.tolist() for rows in indices]
        if self.workers == 0:
            return (torch.stack([self.pixels(index, draw) for index in rows]) for rows in plan)
        loader: DataLoader[Tensor] = DataLoader(
            _Pixels(self, draw),
            batch_sampler=plan,
            num_workers=self.workers,
            collate_fn=torch.stack,
            pin_memory=torch.device(device).type == "cuda",
            generator=torch.Generator(),  # a separate generator: otherwise the loader draws a seed from the global one
        )
        return _hinting(loader)


def _hinting(loader: "DataLoader[Tensor]") -> Iterator[Tensor]:
    """Add advice to the error of a dying worker: containers often have little shared memory."""
    try:
        yield from loader
    except RuntimeError as error:
        if "exited unexpectedly" not in str(error) and "shared memory" not in str(error):
            raise
        raise ValueError(
            "a process that reads images has died, most often for lack of shared memory: set dataset.workers=0, or "
            "give the machine a larger /dev/shm"
        ) from error


class _Pixels(Dataset[Tensor]):
    """State of a worker process: the files and the random draw of the epoch."""

    def __init__(self, files: Files, draw: Draw | None):
        self.files, self.draw = files, draw

    def __getitem__(self, index: int) -> Tensor:
        return self.files.pixels(index, self.draw)

    def __len__(self) -> int:
        return len(self.files)
