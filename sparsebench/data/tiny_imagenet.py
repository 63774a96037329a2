"""Tiny ImageNet, read from its original folder layout."""

from pathlib import Path
from typing import Any

import torch

from sparsebench.data.base import ImageData
from sparsebench.data.files import Files
from sparsebench.data.listing import list_by_class
from sparsebench.data.loader import Source
from sparsebench.data.resident import Shift

MEAN, STD = (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)


class TinyImageNet(ImageData):
    """Serve Tiny ImageNet: 100,000 training images of 64x64 in 200 classes; crop with padding 4 and mirror in training.

    The labels of the official test images are not public, so the official validation images, which papers report, are
    the **test** set here; validation images are held out of the training images. A reduced copy of the set has the
    classes listed in its `wnids.txt`.

    Args:
        resident: Keep all images in memory (1.5 GB for the whole set) instead of reading them in every epoch; the
            pixels are the same.
        common: Keywords of `ImageData`.
    """

    classes = 200
    shape = (3, 64, 64)
    published_images = 100_000

    def __init__(self, *, resident: bool = True, **common: Any):
        super().__init__(**common)
        self.resident = resident
        found = self._find()
        if found is not None:
            self.classes = len(self._names(found))

    def check(self) -> None:
        """Check before training that the set exists and that its test images are labelled.

        Raises:
            FileNotFoundError: If the set is missing.
            ValueError: If labels or images of the test set are missing.
        """
        missing = [path for path in self.read_test().paths if not Path(path).is_file()]
        if missing:
            raise ValueError(f"{missing[0]} is missing, though val_annotations.txt names it: unpack the set again")

    def read_train(self) -> Files:
        """List the training images in `train/WNID/images/*`."""
        folder = self._folder()
        return self._serve(*list_by_class([folder / "train" / name for name in self._names(folder)]))

    def read_test(self) -> Files:
        """List the test images in `val/images/*`, labelled by `val/val_annotations.txt`."""
        folder = self._folder()
        label_of = {name: label for label, name in enumerate(self._names(folder))}
        labelled = folder / "val" / "val_annotations.txt"
        if not labelled.is_file():
            raise ValueError(f"no file {labelled.absolute()}: keep the original layout, with all images in val/images")
        lines = labelled.read_text(encoding="utf-8").splitlines()
        rows = sorted(line.split("\t")[:2] for line in lines if line.strip())
        unknown = sorted({name for _, name in rows} - set(label_of))
        if unknown:
            raise ValueError(
                f"{labelled.absolute()} names class {unknown[0]}, which wnids.txt does not list: make them agree"
            )
        paths = [str(folder / "val" / "images" / file) for file, _ in rows]
        return self._serve(paths, [label_of[name] for _, name in rows])

    def make_resident(self, source: Source) -> Source:
        """Load the files into memory if `resident` is set."""
        return source.load() if self.resident and isinstance(source, Files) else source

    def _serve(self, paths: list[str], labels: list[int]) -> Files:
        return Files(tuple(paths), torch.tensor(labels), MEAN, STD, change=Shift(padding=4), workers=self.workers)

    def _names(self, folder: Path) -> list[str]:
        return sorted((folder / "wnids.txt").read_text(encoding="utf-8").split())

    def _find(self) -> Path | None:
        folders = (self.root / "tiny-imagenet-200", self.root)
        return next((folder for folder in folders if (folder / "wnids.txt").is_file()), None)

    def _folder(self) -> Path:
        found = self._find()
        if found is None:
            raise FileNotFoundError(
                f"Tiny ImageNet is missing: there is no file "
                f"{(self.root / 'tiny-imagenet-200' / 'wnids.txt').absolute()}; "
                f"download tiny-imagenet-200.zip (cs231n.stanford.edu) and unpack it in {self.root.absolute()}, "
                "or set dataset.root to its folder"
            )
        return found
