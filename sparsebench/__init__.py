"""Train sparse neural networks, compare methods on equal terms, and believe the numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsebench.app.process.finished import load as load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import ``load`` when it is first used: ``import sparsebench`` stays light."""
    if name == "load":
        from sparsebench.app.process.finished import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
