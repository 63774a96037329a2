"""Clock: the current step within a budget of optimizer steps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """The time of training: optimizer steps taken, out of a budget."""

    step: int
    total: int

    @property
    def progress(self) -> float:
        """Share of the budget already used, in [0, 1]."""
        return min(1.0, self.step / self.total)

    @property
    def after(self) -> Clock:
        """The clock after the current step."""
        return Clock(self.step + 1, self.total)

    def steps(self, span: float) -> int:
        """Convert a span to steps: below 1 a fraction of the budget, otherwise a number of steps."""
        return max(1, round(span * self.total)) if span < 1 else round(span)

    def due(self, every: float, start: float = 0.0, stop: float = 1.0) -> bool:
        """Return True if a periodic action is due at this step.

        Actions fall on ``start``, ``start + every``, ... up to ``stop`` inclusive, never on step 0.

        Args:
            every: period in steps, or as a fraction of the budget when below 1.
            start: first moment, as a fraction of the budget.
            stop: last moment, as a fraction of the budget.
        """
        first, last = round(start * self.total), round(stop * self.total)
        return 0 < self.step <= last and self.step >= first and (self.step - first) % self.steps(every) == 0

    def between(self, start: float, stop: float) -> float:
        """Progress from ``start`` to ``stop`` (fractions of the budget), clamped to [0, 1]."""
        first, last = round(start * self.total), round(stop * self.total)
        return min(1.0, max(0.0, (self.step - first) / max(1, last - first)))
