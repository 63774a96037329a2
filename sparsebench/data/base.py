"""Base class of all data sets: seeds, splits, shares of a rank, and a single read of each set."""

import os
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from sparsebench.data.loader import EvalLoader, Source, TrainLoader
from sparsebench.data.split import order_balanced, split_balanced, split_by_position, split_shuffled
from sparsebench.runs.messages import check_choice


def resolve_root(root: str | os.PathLike[str] | None) -> Path:
    """Return the data folder: the one given, or the environment's SPARSEBENCH_DATA, or `data` here."""
    return Path(root if root is not None else os.environ.get("SPARSEBENCH_DATA") or "data").expanduser()


class ImageData(L.LightningDataModule):
    """Serve a labelled image data set to Lightning.

    Batches are `(images float32 [B, C, H, W], labels int64 [B])`. A subclass sets `classes` and `shape` and implements
    reading the training and the test images. Validation images are held out of the training set: class-balanced, chosen
    by `split_seed`. The test set is read by `test_dataloader()` and nowhere else; `reads` counts.

    Args:
        root: Folder of the data; None for the environment's SPARSEBENCH_DATA, or `data` if that is not set.
        batch_size: Images of one forward pass over all ranks.
        eval_batch_size: The same for validation and test; None for `batch_size`.
        val_share: Part of the training set to hold out, in [0, 1); 0 for none.
        split: Which images are held out: `random` (class-balanced, by `split_seed`), `last` (by position), or
            `shuffled` (the last ones of numpy's shuffle under seed 0, which the limits follow too: the code of SET).
        split_seed: Seed of the held-out choice.
        order_seed: Seed of data order and augmentation only; may be changed before `train_dataloader()`.
        augment: Whether training images are moved, cropped, mirrored.
        workers: Processes that read image files; resident sets need none.
        download: Whether a missing set may be fetched, where its source allows it.
        limit: Use only this many training images (a class-balanced choice, or the first ones with `split="last"` and
            `"shuffled"`); None for all.
        test_limit: Use only this many test images, class-balanced or the first of the shuffle; None for all.

    Raises:
        ValueError: If a number is out of range.
    """

    classes: int
    shape: tuple[int, int, int]
    train_images: int | None = None
    """Number of training images, validation included, if known without reading them."""
    published_images: int | None = None
    """The same number for the published set, for plans without the files; a local copy may hold fewer images."""

    def __init__(
        self,
        *,
        root: str | os.PathLike[str] | None = "data",
        batch_size: int = 128,
        eval_batch_size: int | None = None,
        val_share: float = 0.1,
        split: str = "random",
        split_seed: int = 0,
        order_seed: int = 0,
        augment: bool = True,
        workers: int = 0,
        download: bool = False,
        limit: int | None = None,
        test_limit: int | None = None,
    ):
        super().__init__()
        check_choice("split", split, ("random", "last", "shuffled"))
        sizes = {"batch_size": batch_size, "eval_batch_size": eval_batch_size}
        at_least_one = {**sizes, "limit": limit, "test_limit": test_limit}
        for name, value in at_least_one.items():
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: give 1 or more")
        if not 0 <= val_share < 1:
            raise ValueError(f"val_share={val_share}: give a share of the training set, at least 0 and less than 1")
        if workers < 0:
            raise ValueError(f"workers={workers}: give 0 to read in this process, or a number of processes")
        self.root, self.batch_size, self.eval_batch_size = resolve_root(root), batch_size, eval_batch_size or batch_size
        self.val_share, self.split, self.split_seed, self.order_seed = val_share, split, split_seed, order_seed
        self.augment, self.workers, self.download = augment, workers, download
        self.limit, self.test_limit = limit, test_limit
        self.reads = {"train": 0, "test": 0}
        self._training: tuple[Source, Source | None] | None = None
        self._test: Source | None = None

    def check(self) -> None:
        """Check that the data exist: download them if requested, or raise an error that names the missing files."""

    def read_train(self) -> Source:
        """Read the training images."""
        raise NotImplementedError

    def read_val(self) -> Source | None:
        """Read the validation images of a set that has them; None to hold out training images instead."""
        return None

    def read_test(self) -> Source:
        """Read the test images."""
        raise NotImplementedError

    def make_resident(self, source: Source) -> Source:
        """Return the images in their final storage; subclasses may override this to load files into memory."""
        return source

    def prepare_data(self) -> None:
        """Check the data and download them if requested, once per machine."""
        self.check()

    def training_sets(self) -> tuple[Source, Source | None]:
        """Return the images to train on and to validate on (None if `val_share` is 0), read once."""
        if self._training is None:
            source, own = self.read_train(), self.read_val()
            self.reads["train"] += 1
            self._check_labels("training", source)
            if own is not None:
                self._check_labels("validation", own)
            share = 0.0 if own is not None else self.val_share
            if self.split != "random":
                train, held_out = split_by_position(len(source), share)
                if self.split == "shuffled":
                    order = split_shuffled([len(source)])[0]
                    train, held_out = order[train], order[held_out]
            else:
                train, held_out = split_balanced(source.labels, share, seed=self.split_seed)
            self._check_classes(source.labels[train[: self.limit]])
            val = source.select(held_out) if len(held_out) else own
            val = None if val is None else self.make_resident(val)
            self._training = self.make_resident(source.select(train[: self.limit])), val
        return self._training

    def _check_labels(self, part: str, source: Source) -> None:
        """Raise an error for labels that are not whole numbers from 0 to ``classes - 1``, one for each image."""
        labels: Any = source.labels  # a custom source may hold anything
        name = f"{part} labels of {type(self).__name__}"
        wanted = f"give int64 from 0 to {self.classes - 1} (classes={self.classes}), one for each image"
        if not isinstance(labels, Tensor) or labels.dim() != 1:
            shape = f" of shape {list(labels.shape)}" if hasattr(labels, "shape") else ""
            raise ValueError(f"{name} are {type(labels).__name__}{shape}: {wanted} in a tensor [n]")
        if not len(labels):
            raise ValueError(f"{name}: there are none; {wanted}")
        least, most = labels.min().item(), labels.max().item()
        if labels.dtype != torch.int64 or not 0 <= least <= most < self.classes:
            raise ValueError(f"{name} are {labels.dtype}, {least:g} to {most:g}: {wanted}")

    def _check_classes(self, labels: Tensor) -> None:
        """Raise an error for a class without training images."""
        empty = (labels.bincount(minlength=self.classes) == 0).nonzero().reshape(-1).tolist()
        if empty:
            why = f"dataset.limit={self.limit}" if self.limit is not None else type(self).__name__
            raise ValueError(
                f"{why} leaves class {empty[0]} of {self.classes} without training images: use more images"
            )

    def train_dataloader(self) -> TrainLoader:
        """Return a new resumable loader of the training images."""
        return TrainLoader(
            self.training_sets()[0],
            batch_size=self.batch_size,
            order_seed=self.order_seed,
            augment=self.augment,
            **self._place(),
        )

    def val_dataloader(self) -> EvalLoader | list[EvalLoader]:
        """Return a loader of the validation images, or no loader if none are held out."""
        val = self.training_sets()[1]
        return [] if val is None else EvalLoader(val, batch_size=self.eval_batch_size, **self._place())

    def test_dataloader(self) -> EvalLoader:
        """Return a loader of the test images: the only place that reads them."""
        if self._test is None:
            source = self.read_test()
            self._check_labels("test", source)
            if self.test_limit is not None and self.test_limit < len(source):
                source = source.select(self._test_order(source)[: self.test_limit])
            self._test = self.make_resident(source)
            self.reads["test"] += 1
        return EvalLoader(self._test, batch_size=self.eval_batch_size, **self._place())

    def _test_order(self, source: Source) -> Tensor:
        if self.split == "shuffled":
            if self.train_images is None:
                raise ValueError(f"split=shuffled: {type(self).__name__} does not know its size, choose random or last")
            return split_shuffled([self.train_images, len(source)])[1]
        return order_balanced(source.labels, seed=0, name="test")

    def _place(self) -> dict[str, Any]:
        """Return rank, number of ranks and device of the attached trainer; one CPU process without a trainer."""
        trainer = self.trainer
        if trainer is None or not hasattr(trainer, "world_size"):
            return {"rank": 0, "world": 1, "device": torch.device("cpu")}
        strategy = getattr(trainer, "strategy", None)
        device = getattr(strategy, "root_device", torch.device("cpu"))
        return {"rank": trainer.global_rank, "world": trainer.world_size, "device": device}
