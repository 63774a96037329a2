"""Training data for scoring weights: the first batches, or a number of images per class, equal on every rank."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from sparsebench.methods.probe import cut


def first_batches(trainer: L.Trainer, number: int) -> list[Any]:
    """Return the first training batches, complete on every rank, without moving the loader's position.

    Raises:
        ValueError: the data hold fewer batches.
    """
    with _whole_batches(trainer) as (whole, _):
        batches = list(itertools.islice(whole, number))
    if len(batches) < number:
        raise ValueError(
            f"{number} batches are needed for scoring, but the training data hold {len(batches)}: request fewer"
        )
    return [trainer.strategy.batch_to_device(batch) for batch in batches]


def first_images(trainer: L.Trainer, images: int) -> list[Any]:
    """Return the batches of the first training images, see ``methods.probe.cut``; the loader does not move.

    Raises:
        ValueError: the data hold fewer images, or they end within a later batch.
    """
    with _whole_batches(trainer) as (whole, _):
        batches = cut(whole, images)
    return [trainer.strategy.batch_to_device(batch) for batch in batches]


def balanced_batches(trainer: L.Trainer, per_class: int, largest: int = 500) -> list[Any]:
    """Return the first images of each class, in at least two batches with all classes, without moving the loader.

    Args:
        trainer: a trainer in ``fit``, whose batches are pairs of inputs and class indices.
        per_class: number of images per class. A class with fewer images contributes all of them, with a warning.
        largest: maximum number of images in a batch.

    Raises:
        ValueError: the batches are not such pairs.
    """
    with _whole_batches(trainer) as (whole, loader):
        images, labels = _first_of_each(whole, per_class, _counts(getattr(loader, "source", None)))
    # the first image of every class, then the second of every class, ...
    turn = torch.zeros_like(labels)
    for number in labels.unique():
        turn[labels == number] = torch.arange(int((labels == number).sum()))
    order = (turn * (int(labels.max()) + 1) + labels).argsort(stable=True)
    parts = min(max(2, -(-len(labels) // largest)), len(labels))
    chunks = zip(images[order].tensor_split(parts), labels[order].tensor_split(parts), strict=True)
    return [trainer.strategy.batch_to_device(chunk) for chunk in chunks]


def _first_of_each(batches: Iterator[Any], per_class: int, there: dict[int, int]) -> tuple[Tensor, Tensor]:
    """Return the first images of each class in one epoch, with labels; stop early if all classes are known."""
    images: list[Tensor] = []
    labels: list[Tensor] = []
    seen: dict[int, int] = {}
    for batch in batches:
        if not (isinstance(batch, Sequence) and len(batch) == 2 and _is_classes(batch[1])):
            raise ValueError(
                "a sample balanced over classes needs batches of (images, class indices), which these are not: "
                "give the method a number of batches instead"
            )
        taken = [n for n, label in enumerate(batch[1].tolist()) if _counted(seen, label) <= per_class]
        images.append(batch[0][taken].cpu())
        labels.append(batch[1][taken].cpu())
        if there and all(seen.get(label, 0) >= min(per_class, number) for label, number in there.items()):
            break
    scarce = sorted(label for label, number in seen.items() if number < per_class)
    if scarce:
        warnings.warn(
            f"class {scarce[0]} has {seen[scarce[0]]} training images, but scoring uses {per_class} of each class: "
            f"{len(scarce)} of {len(seen)} classes contribute all their images",
            stacklevel=2,
        )
    return torch.cat(images), torch.cat(labels)


def _is_classes(labels: Any) -> bool:
    return isinstance(labels, Tensor) and labels.dim() == 1 and not labels.is_floating_point()


def _counts(source: Any) -> dict[int, int]:
    """Return the number of images per class; empty if the loader does not know it."""
    labels = getattr(source, "labels", None)
    if not isinstance(labels, Tensor) or not _is_classes(labels):
        return {}
    numbers, counts = labels.unique(return_counts=True)
    return dict(zip(numbers.tolist(), counts.tolist(), strict=True))


def _counted(seen: dict[int, int], label: int) -> int:
    seen[label] = seen.get(label, 0) + 1
    return seen[label]


@contextlib.contextmanager
def _whole_batches(trainer: L.Trainer) -> Iterator[tuple[Iterator[Any], Any]]:
    """Yield an iterator over whole training batches, equal on every rank, and the loader, then restore its position."""
    trainer.fit_loop.setup_data()
    loader: Any = trainer.fit_loop._combined_loader.flattened[0]  # type: ignore[union-attr]
    position = loader.state_dict() if hasattr(loader, "state_dict") else None
    try:
        yield (_whole(batch, trainer.world_size) for batch in loader), loader
    finally:
        if position is not None:
            loader.load_state_dict(position)


def _whole(batch: Any, ranks: int) -> Any:
    if ranks == 1:
        return batch
    shares: list[Any] = [None] * ranks
    torch.distributed.all_gather_object(shares, tree_map(_to_host, batch))
    return tree_map(_joined, *shares)


def _to_host(leaf: Any) -> Any:
    return leaf.cpu() if isinstance(leaf, Tensor) else leaf


def _joined(*shares: Any) -> Any:
    """Join the shares of all ranks to the batch of a single rank: rank r has every sample r modulo ranks."""
    if not isinstance(shares[0], Tensor) or shares[0].dim() == 0:
        return shares[0]
    if len({len(share) for share in shares}) > 1:
        return torch.cat(shares)
    return torch.stack(shares, dim=1).flatten(0, 1)
