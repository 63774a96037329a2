"""From finished runs to tables, charts and comparisons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsebench.results.tabular import frame as frame
    from sparsebench.results.tabular import read_results as read_results

__all__ = ["frame", "read_results"]


def __getattr__(name: str) -> Any:
    """Import the reading functions when they are first used."""
    if name in __all__:
        from sparsebench.results import tabular

        return getattr(tabular, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
