"""Conversion of nested mappings, such as configurations, to flat ones with dotted keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

MISSING = "-"
"""Value of a key that is missing in one of two mappings."""


def dotted(mapping: Mapping[str, Any], prefix: str = "", *, groups: bool = False) -> dict[str, Any]:
    """Return a nested mapping as a flat one: ``{"a": {"b": 1}}`` becomes ``{"a.b": 1}``.

    Args:
        mapping: nested mapping with string keys.
        prefix: put before every key.
        groups: whether to keep inner mappings as entries too, each before its own keys. An empty mapping is always an
            entry.
    """
    found: dict[str, Any] = {}
    for key, value in mapping.items():
        inner = cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else None
        if groups or not inner:
            found[f"{prefix}{key}"] = value
        if inner:
            found |= dotted(inner, f"{prefix}{key}.", groups=groups)
    return found


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the dotted keys whose values differ, with both values; ``MISSING`` stands for an absent key."""
    one, two = dotted(first), dotted(second)
    keys = dict.fromkeys([*one, *two])
    pairs = {key: (one.get(key, MISSING), two.get(key, MISSING)) for key in keys}
    return {key: pair for key, pair in pairs.items() if (key in one) != (key in two) or pair[0] != pair[1]}
