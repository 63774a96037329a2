"""Train sparse neural networks, compare methods on equal terms, and believe the numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsebench.app.process.finished import load as load
    from sparsebench.app.process.finished import load_network as load_network

__version__ = "0.1.0"
__all__ = ["__version__", "load", "load_network"]


def __getattr__(name: str) -> Any:
    """Import ``load`` and ``load_network`` when they are first used: ``import sparsebench`` stays light."""
    if name in ("load", "load_network"):
        from sparsebench.app.process import finished

        return getattr(finished, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
