"""Checks of options against the signature of the class or function that takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from inspect import signature
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from sparsebench.runs.messages import did_you_mean


def check_words(target: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raise an error for strings where the signature expects a bool or a number: any string would be true.

    Raises:
        ValueError: an option is wrong; the message names the first.
    """
    try:
        hints = get_type_hints(target.__init__ if isinstance(target, type) and not is_dataclass(target) else target)
    except (NameError, TypeError):  # annotations with names that exist only for type checkers, or no annotations
        return
    for key, value in options.items():
        hint = hints.get(key)
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if bool in kinds and all(kind in (bool, NoneType) for kind in kinds) and type(value) not in kinds:
            raise ValueError(f"{key}={value!r} must be true or false")
        plain = all(isinstance(kind, type) and kind is not str for kind in kinds)
        if isinstance(value, str) and plain and (int in kinds or float in kinds):
            raise ValueError(f"{key}={value!r} must be a number")


def check_keywords(name: str, target: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raise an error for unknown options of a callable, which a partial would reject only when called.

    Raises:
        ValueError: an option is unknown; the message names the first, and the known ones.
    """
    taken = _keywords(target)
    if taken is None:
        return
    for key in options:
        if key not in taken and not (key.startswith("_") and key.endswith("_")):
            hint = did_you_mean(key, taken) or f"; it takes {', '.join(sorted(taken))}"
            raise ValueError(f"{name} does not take {key!r}{hint}; leave a key out with ~GROUP.{key}")


def _keywords(target: Callable[..., Any]) -> set[str] | None:
    """Return the keywords of a callable, including its bases' if it passes on ``**keywords``; None for any."""
    found: set[str] = set()
    makers = (
        [vars(kind)["__init__"] for kind in target.__mro__ if "__init__" in vars(kind)]
        if isinstance(target, type)
        else [target]
    )
    for maker in makers:
        try:
            parameters = signature(maker).parameters.values()
        except (TypeError, ValueError):
            return None
        found |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} - {"self"}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return found
    return None
