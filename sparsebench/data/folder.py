"""Image folders with one folder per class: ImageNet, Imagenette, or your own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sparsebench.data.base import ImageData
from sparsebench.data.files import Files, Zoom
from sparsebench.data.listing import list_by_class, list_classes

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ImageFolder(ImageData):
    """Serve a folder with `train/CLASS/*`, `val/CLASS/*` and optionally `test/CLASS/*`.

    If `test/` exists, `val/` is for validation and `test/` for testing. Otherwise, as in ImageNet, papers report on
    `val/`, so it is the **test** set, read once, and validation images are held out of `train/`. If `test/` exists
    without `val/`, validation images are also held out of `train/`.

    Training images are cropped at random (8 to 100 % of the area), resized and mirrored; others are resized and cropped
    at the centre. The crop of an image depends only on (order seed, epoch, image).

    Args:
        shape: Channels (3), height and width of the network's input.
        classes: Number of classes, checked when the images are listed; None to count the folders of `train/`.
        resize: Short side before the centre crop; None for 8/7 of the height, such as the usual 256 for 224.
        scale: Smallest and largest share of the area that a training crop keeps.
        mean: Per channel, on the scale 0 to 1.
        std: Per channel, on the scale 0 to 1.
        common: Keywords of `ImageData`.

    Raises:
        FileNotFoundError: If `train/` is missing and the number of classes is not given.
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        *,
        shape: Sequence[int] = (3, 224, 224),
        classes: int | None = None,
        resize: int | None = None,
        scale: Sequence[float] = (0.08, 1.0),
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        **common: Any,
    ):
        super().__init__(**common)
        if len(shape) != 3 or shape[0] != 3 or min(shape) < 1:
            raise ValueError(f"shape={list(shape)}: images are read in colour, give [3, height, width]")
        self.shape = (3, int(shape[1]), int(shape[2]))
        short = round(max(self.shape[1:]) * 8 / 7) if resize is None else resize
        if short < max(self.shape[1:]):
            raise ValueError(
                f"resize={short} is less than the crop of {max(self.shape[1:])} pixels: give at least that"
            )
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"scale={list(scale)}: give [smallest, largest] share of the area, above 0 and at most 1")
        self.zoom = Zoom(size=self.shape[1:], resize=short, scale=(float(scale[0]), float(scale[1])))
        self.mean, self.std = tuple(mean), tuple(std)
        self.classes = len(list_classes(self._folder("train"))) if classes is None else classes
        self.published_images = 1_281_167 if self.classes == 1000 else None  # of ImageNet

    def check(self) -> None:
        """Check before training that the folders exist and hold test images.

        Raises:
            FileNotFoundError: If `train/`, or both `val/` and `test/`, are missing.
            ValueError: If a class is unknown, or there are no test images.
        """
        self._folder("train")
        self.read_test()

    def read_train(self) -> Files:
        """Return the training images."""
        return self._list(self._folder("train"))

    def read_val(self) -> Files | None:
        """Return the images of `val/` if there is also a `test/`."""
        has_own = (self.root / "test").is_dir() and (self.root / "val").is_dir()
        return self._list(self._folder("val")) if has_own else None

    def read_test(self) -> Files:
        """Return the images of `test/`, or of `val/` if there is no `test/`."""
        return self._list(self._test_folder())

    def _test_folder(self) -> Path:
        return self._folder("test" if (self.root / "test").is_dir() else "val")

    def _folder(self, name: str) -> Path:
        folder = self.root / name
        if not folder.is_dir():
            raise FileNotFoundError(
                f"there is no folder {folder.absolute()}: put the images there as {self.root}/train/CLASS/IMAGE and "
                f"{self.root}/val/CLASS/IMAGE (sparsebench cannot download them), or set dataset.root"
            )
        return folder

    def _list(self, folder: Path) -> Files:
        names = list_classes(self._folder("train"))
        if len(names) != self.classes:
            raise ValueError(
                f"{(self.root / 'train').absolute()} holds {len(names)} class folders, not {self.classes}: "
                "set dataset.classes to their number"
            )
        unknown = sorted(set(list_classes(folder)) - set(names))
        if unknown:
            raise ValueError(
                f"{(folder / unknown[0]).absolute()} is a class without a folder in train/: create that folder"
            )
        of_training = folder == self._folder("train")
        paths, labels = list_by_class([folder / name for name in names], allow_empty=not of_training)
        if not paths:
            raise ValueError(f"{folder.absolute()} holds no image files: put them into its class folders")
        return Files(tuple(paths), torch.tensor(labels), self.mean, self.std, change=self.zoom, workers=self.workers)
