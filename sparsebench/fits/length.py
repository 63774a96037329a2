"""Length of training: batches per epoch, optimizer steps per epoch and per fit."""

from __future__ import annotations

import math


def used_batches(count: int, limit: int | float) -> int:
    """Return how many of ``count`` batches are used under a limit: a number as an int, a share as a float."""
    return min(count, limit) if isinstance(limit, int) else int(count * limit)


def steps_of_epoch(batches: int, accumulate: int) -> int:
    """Return the optimizer steps of an epoch; the last step may accumulate fewer batches."""
    return math.ceil(batches / accumulate)


def steps_of_fit(epoch: int, max_epochs: int | None, max_steps: int | None) -> int:
    """Return the optimizer steps of a whole fit, limited by epochs or by steps.

    Args:
        epoch: number of optimizer steps of an epoch.
        max_epochs: length in epochs; None or a negative number for no limit.
        max_steps: length in steps; None or a negative number for no limit.

    Raises:
        ValueError: training has no end, or no steps.
    """
    ends = [epoch * max_epochs] if max_epochs is not None and max_epochs >= 0 else []
    ends += [max_steps] if max_steps is not None and max_steps >= 0 else []
    if not ends:
        raise ValueError("training has no end, but schedules need one: set trainer.max_epochs or trainer.max_steps")
    if min(ends) < 1:
        raise ValueError(f"{min(ends)} optimizer steps train nothing: raise trainer.max_epochs or max_steps")
    return min(ends)


def epochs_of(steps: int, epoch: int) -> int | float:
    """Return the number of epochs in ``steps`` steps: an int if they are whole."""
    return steps // epoch if steps % epoch == 0 else steps / epoch
