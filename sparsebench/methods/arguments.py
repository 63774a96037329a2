"""Check the settings of methods, with errors that say how to write them, and format settings briefly."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields
from typing import Any

from sparsebench.runs.messages import did_you_mean
from sparsebench.sparse.model import SparseModel


def check_arguments(kind: type, given: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Raise an error for positional settings, sparsity in place of density, and unknown names.

    Raises:
        ValueError: a setting is wrong; the message says how to write it.
    """
    known = [field.name for field in fields(kind) if field.init]  # type: ignore[arg-type]
    name, first = kind.__name__, next(iter(given), None)
    if given:
        number = isinstance(first, int | float) and 0 < first <= 1
        example = f"{name}(density={first})" if number and "density" in known else f"{name}({known[0]}=...)"
        raise ValueError(f"{name} takes its settings by name, {first!r} was given without one: write {example}")
    if "sparsity" in options and "density" in known and "sparsity" not in known:
        value = options["sparsity"]
        share = f"{round(1 - value, 12):g}" if isinstance(value, int | float) and 0 <= value < 1 else "1 - sparsity"
        raise ValueError(f"{name} takes the density that stays, not sparsity={value!r}: write {name}(density={share})")
    for key in options:
        if key not in known:
            raise ValueError(
                f"{name} has no setting {key!r}{did_you_mean(key, known)}: choose among {', '.join(known) or 'none'}"
            )


def check_method(given: Any) -> None:
    """Raise an error for anything but a method, such as a name or a class that was not called.

    Raises:
        ValueError: this is not a method; the message says how to write one.
    """
    from sparsebench import methods

    if isinstance(given, methods.Method):
        return
    plain = {name.lower(): name for name in methods.__all__}
    name = given.__name__ if isinstance(given, type) else str(given)
    known = plain.get(name.lower().replace("_", "").replace("-", ""))
    example = f"{known or 'RigL'}(density=0.1)"
    raise ValueError(
        f"Sparsity takes a method, {given!r} was given: write Sparsity({example}), with "
        f"'from sparsebench.methods import {known or 'RigL'}'"
    )


def require_learned(method: object, net: SparseModel) -> None:
    """Raise an early error if the parameters that a method learns along with the weights are missing.

    Raises:
        ValueError: they are missing; the message says how to create them.
    """
    if not net.learned:
        raise ValueError(
            f"{type(method).__name__} learns more than the weights and shows the network modified weights: train it "
            f"with Sparsity(...), or in your own loop with methods.Loop, which handle both"
        )


class SettingsSignature:
    """The signature of a method's class, which lists its settings although ``__new__`` checks the arguments first."""

    def __get__(self, instance: object, owner: type) -> inspect.Signature:
        parameters = list(inspect.signature(owner.__init__).parameters.values())
        return inspect.Signature(parameters[1:])


def shown(method: Any) -> str:
    """Format a method with its density and the settings that differ from the defaults of its class."""
    told: list[str] = []
    for field in fields(method):
        value = getattr(method, field.name)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if field.init and (field.name == "density" or value != default):
            told.append(f"{field.name}={getattr(value, '__name__', None) or repr(value)}")
    return f"{type(method).__name__}({', '.join(told)})"
