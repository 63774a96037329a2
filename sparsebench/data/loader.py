"""Loaders whose batches are a pure function of (order seed, epoch, position): exact resumption, any number of ranks."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from sparsebench.functional.random import generator

Batch = tuple[Tensor, Tensor]
Draw = tuple[int, int]  # (order seed, epoch): the augmentation of an image depends on these and on the image


class Source(Protocol):
    """Labelled images accessible by index; resident in memory or read from files."""

    labels: Tensor

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def select(self, indices: Tensor) -> "Source":
        """Return a subset, in the order of the indices."""
        ...

    def batches(
        self, indices: Sequence[Tensor], *, device: torch.device | str = "cpu", draw: Draw | None = None
    ) -> Iterator[Batch]:
        """Yield one batch for each index tensor; augmented if a draw is given."""
        ...


class TrainLoader:
    """Yield shuffled, augmented batches, resumable at any batch.

    The batches of an epoch depend only on the order seed and the epoch: not on earlier iterations, the global random
    state, or the number of ranks. `batch_size` counts the images of one forward pass over all ranks; of each global
    batch, rank r takes `indices[r::world]`. A ragged last batch is dropped; a set smaller than one batch forms a single
    batch (without a remainder that the ranks cannot share evenly).

    Lightning calls `iter()` before `sampler.set_epoch()`, so the epoch is read when the first batch is requested. A
    finished epoch is followed by the next one, even without a call to `set_epoch`.

    Args:
        source: The training images.
        batch_size: Images in one global batch.
        order_seed: Seed of the order and of the augmentation.
        rank: Index of the slice of each global batch to take.
        world: Number of slices.
        augment: Whether to augment.
        device: Device of the batches.

    Raises:
        ValueError: If the batch does not divide by the ranks or there are fewer images than ranks.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        order_seed: int = 0,
        rank: int = 0,
        world: int = 1,
        augment: bool = True,
        device: torch.device | str = "cpu",
    ):
        if batch_size % world:
            raise ValueError(
                f"batch_size={batch_size} is the batch over all ranks and cannot be shared by {world} ranks: "
                f"give a multiple of {world}, for example {-(-batch_size // world) * world}"
            )
        if len(source) < world:
            raise ValueError(
                f"there are {len(source)} training images for {world} ranks: give each at least one "
                "(lower val_share, raise limit, or use fewer devices)"
            )
        self.source, self.batch_size, self.order_seed = source, batch_size, order_seed
        self.rank, self.world, self.augment, self.device = rank, world, augment, device
        self._epoch = 0
        self._position = 0  # batches of this epoch that were already yielded
        self._resuming = False  # whether the next iteration starts at the position instead of at 0
        self._epoch_given = False  # whether set_epoch was called since the state was loaded

    @property
    def epoch(self) -> int:
        """The epoch of the running iteration, or of the next one if none is running."""
        return self._epoch

    @property
    def sampler(self) -> "TrainLoader":
        """Return the object whose `set_epoch` Lightning calls at the start of every epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; a loaded position is kept if it belongs to this epoch."""
        if epoch != self._epoch:
            self._epoch, self._position, self._resuming = epoch, 0, False
        self._epoch_given = True

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch and the number of its batches already yielded."""
        return {"epoch": self._epoch, "position": self._position}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after the batch during which the state was saved.

        A position at the end of an epoch means the start of the next one. If `set_epoch` selects the finished epoch
        again, the iteration is empty.
        """
        epoch, position = int(state_dict["epoch"]), int(state_dict["position"])
        if epoch < 0 or not 0 <= position <= len(self):
            raise ValueError(
                f"the saved data position, batch {position} of epoch {epoch}, does not exist: an epoch has {len(self)} "
                "batches here; resume with the batch_size, val_share and limit of the interrupted run"
            )
        self._epoch, self._position, self._resuming, self._epoch_given = epoch, position, True, False

    def __len__(self) -> int:
        return max(1, len(self.source) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        # A generator: none of this runs before the first batch is requested.
        epoch, start = self._begin()
        draw = (self.order_seed, epoch) if self.augment else None
        rest = self.plan(epoch)[start:]
        for position, batch in enumerate(self.source.batches(rest, device=self.device, draw=draw), start + 1):
            self._position = position
            yield batch
        if self._epoch == epoch:
            self._epoch, self._position = epoch + 1, 0

    def plan(self, epoch: int) -> list[Tensor]:
        """Return the indices of this rank's batches in an epoch."""
        count = len(self.source)
        size = self.batch_size if count >= self.batch_size else count - count % self.world
        order = torch.randperm(count, generator=generator(self.order_seed, "order", epoch))
        return list(order[: len(self) * size].reshape(len(self), size)[:, self.rank :: self.world].unbind())

    def _begin(self) -> tuple[int, int]:
        """Fix epoch and first batch of an iteration that starts now."""
        if not self._resuming:
            self._position = 0
        elif self._position == len(self) and not self._epoch_given:
            self._epoch, self._position = self._epoch + 1, 0
        self._resuming = False
        return self._epoch, self._position


class EvalLoader:
    """Yield every image exactly once, in order, without augmentation.

    All ranks yield the same number of batches, because a distributed forward pass may communicate. A last batch with
    fewer images than ranks is merged into the previous one.

    Args:
        source: The images.
        batch_size: Images in one global batch.
        rank: Index of the slice of each global batch to take.
        world: Number of slices.
        device: Device of the batches.

    Raises:
        ValueError: If there are fewer images than ranks.
    """

    def __init__(
        self, source: Source, *, batch_size: int, rank: int = 0, world: int = 1, device: torch.device | str = "cpu"
    ):
        if len(source) < world:
            raise ValueError(f"there are {len(source)} images to evaluate for {world} ranks: use fewer devices")
        self.source, self.device = source, device
        starts = list(range(0, len(source), batch_size))
        if len(starts) > 1 and len(source) - starts[-1] < world:
            starts.pop()
        ends = [*starts[1:], len(source)]
        self._plan = [torch.arange(start, end)[rank::world] for start, end in zip(starts, ends, strict=True)]

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.source.batches(self._plan, device=self.device))
