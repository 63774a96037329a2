"""Refusals of wrong input, worded the same everywhere: what was given, what is allowed, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the nearest known word, or nothing."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {found[0]!r}?)" if found else ""


def check_choice(name: str, value: Any, allowed: Iterable[Any]) -> None:
    """Raise ``ValueError`` unless a value is among the allowed ones.

    Args:
        name: what the user calls it.
        value: what was given.
        allowed: what may be given.
    """
    choices = list(allowed)
    if value not in choices:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(str(choice) for choice in choices)}")
