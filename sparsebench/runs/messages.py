"""Uniform error messages for wrong input: the given value, the allowed values, and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


def did_you_mean(word: str, known: Iterable[str], *, at_most: int = 1, cutoff: float = 0.5) -> str:
    """Return `` (did you mean 'x'?)`` for the nearest known words, or an empty text.

    Args:
        word: the given word; case is ignored if nothing matches with it.
        known: the allowed words.
        at_most: largest number of words to suggest.
        cutoff: minimum similarity, from 0 (anything) to 1 (equal).
    """
    allowed = list(known)
    found = difflib.get_close_matches(word, allowed, n=at_most, cutoff=cutoff)
    if not found:
        lower = {name.lower(): name for name in reversed(allowed)}
        found = [lower[name] for name in difflib.get_close_matches(word.lower(), lower, n=at_most, cutoff=cutoff)]
    return f" (did you mean {' or '.join(map(repr, found))}?)" if found else ""


def check_choice(name: str, value: Any, allowed: Iterable[Any]) -> None:
    """Raise ``ValueError`` unless a value is among the allowed ones.

    Args:
        name: the user's name for the value.
        value: the given value.
        allowed: the allowed values.
    """
    choices = list(allowed)
    if value not in choices:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(str(choice) for choice in choices)}")
