"""Warnings about settings that are legal but rarely intended."""

from __future__ import annotations

import warnings

from sparsebench.methods.base import Clock


def advise_on_updates(clock: Clock, every: float, until: float, *, replaces: bool) -> None:
    """Warn before training if masks never change, or if updates leave few steps to the optimizer.

    Args:
        clock: the current step and the budget of steps.
        every: period of the updates, in the method's own terms.
        until: last moment of an update, as a fraction of the budget.
        replaces: whether an update takes the place of an optimizer step.
    """
    if clock.step > 0:
        return
    period, last = clock.steps(every), min(round(until * clock.total), clock.total - 1)
    if period > last:
        warnings.warn(
            f"no mask update falls into {clock.total} steps with every={every:g} and until={until:g}: masks stay as "
            f"drawn; set every= to a smaller number of steps, or to a fraction of the budget",
            stacklevel=3,
        )
    elif replaces and period <= 2:
        warnings.warn(
            f"updates take the place of {last // period} of {clock.total} optimizer steps with every={every:g}: set "
            f"every= to more steps, or replaces_step=false to step and update",
            stacklevel=3,
        )
