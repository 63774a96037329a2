"""Image files and class folders below a folder, in an order that does not depend on the file system."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from sparsebench.runs.walk import walk

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Extensions of image files, in lower or upper case."""
UNREAD = (".gif", ".jfif", ".jpe", ".jp2", ".j2k", ".jxl", ".avif", ".heic", ".heif", ".svg", ".tga", ".raw", ".dcm")
"""Extensions of image files that are not read, but must not be missed silently."""


def list_classes(folder: Path) -> list[str]:
    """Return the class folders in alphabetical order: the label of a class is its index."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def list_images(folder: Path, endings: tuple[str, ...] = ENDINGS) -> list[str]:
    """Return the image files of a folder, at any depth and through links, sorted, without hidden ones."""
    found: list[str] = []
    for place, _, names in walk(folder):
        found += [os.path.join(place, n) for n in names if not n.startswith(".") and n.lower().endswith(endings)]
    return sorted(found)


def list_by_class(folders: Sequence[Path], *, allow_empty: bool = False) -> tuple[list[str], list[int]]:
    """Return the images of each class with their labels; the label of a folder is its index.

    Image files of other types are named in a warning.

    Args:
        folders: One per class.
        allow_empty: Whether a class may have no image, as in a reduced test set.

    Raises:
        ValueError: If a class has no image, or only images of types that are not read.
    """
    paths: list[str] = []
    labels: list[int] = []
    unread: list[str] = []
    for label, folder in enumerate(folders):
        both = list_images(folder, (*ENDINGS, *UNREAD))
        found = [path for path in both if path.lower().endswith(ENDINGS)]
        if not found and (both or not allow_empty):
            raise ValueError(
                f"class {folder.name} has no images in {folder.absolute()}: put files there that end in "
                f"{', '.join(ENDINGS)}, or remove the folder"
            )
        paths += found
        labels += [label] * len(found)
        unread += [path for path in both if path.lower().endswith(UNREAD)]
    if unread:
        warnings.warn(
            f"{unread[0]} and all files that end in {', '.join(sorted({Path(p).suffix.lower() for p in unread}))} "
            f"({len(unread)} files) are not read: convert them to .png, or remove them",
            stacklevel=2,
        )
    return paths, labels
