"""Choose the parameters that may be sparse: by type, name or pattern; norms and biases only if named."""

import fnmatch
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn import Parameter

from sparsebench.runs.messages import did_you_mean
from sparsebench.sparse.layers import TYPES, direct_weights, foreign_weights, owned_weights, unserved_weights


@dataclass(frozen=True)
class Prunable:
    """Select the parameters that may be sparse.

    Frozen parameters (``requires_grad=False``) are never selected, because grown weights would not train. A tensor that
    several layers share is selected if all of them are of a chosen type, in any order of definition. A warning names
    parameters left out for these reasons, and large matrices of layers of unknown type.

    Args:
        types: kinds of layers whose weights are selected: ``conv``, ``linear`` (including attention's projections),
            ``attention`` (its input projections alone), ``recurrent``, ``embedding``.
        include: further parameters, by full name, shell pattern (``blocks.*.weight``) or ``re:`` + regular expression.
        exclude: parameters left dense and outside every budget, in the same three forms; ``first`` and ``last``
            stand for the first and last parameter selected.
    """

    types: Sequence[str] = ("conv", "linear")
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()

    def __post_init__(self) -> None:
        for kind in self.types:
            if kind not in TYPES:
                raise ValueError(f"prunable type {kind!r} is unknown: allowed are {', '.join(TYPES)}")

    def select(self, module: nn.Module) -> dict[str, Parameter]:
        """Return the selected parameters of ``module`` by full name, in order of definition.

        A tensor with several names appears once, under the first of them; any of them may be written in a pattern.

        Raises:
            ValueError: a pattern matches nothing, no parameter may be sparse, or the zeros of a selected parameter
                would not be zeros of the weight that the layer computes from it.
        """
        named = dict(module.named_parameters())
        first = _first_names(module)
        chosen, left_out = self._by_type(module, first)
        for pattern in self.include:
            asked = {first[name] for name in _matches(pattern, list(first))}
            chosen |= asked
            left_out = {name: why for name, why in left_out.items() if name not in asked}
        ordered = [name for name in named if name in chosen]
        for pattern in self.exclude:
            ends = {"first": ordered[:1], "last": ordered[-1:]}
            out = set(ends[pattern] if pattern in ends else (first[n] for n in _matches(pattern, list(first))))
            chosen, left_out = chosen - out, {name: why for name, why in left_out.items() if name not in out}
        frozen = [name for name in named if name in chosen and not named[name].requires_grad]
        left_out |= dict.fromkeys(frozen, "frozen, requires_grad=False")
        chosen -= set(frozen)
        if left_out:
            warnings.warn(f"left dense, and outside every budget: {_listed(left_out)}", stacklevel=2)
        if not chosen:
            raise ValueError(
                f"no parameter may be sparse: types {list(self.types)}, include {list(self.include)} and exclude "
                f"{list(self.exclude)} leave none of {len(named)}"
                + (f" ({len(frozen)} are frozen)" if frozen else "")
                + "; allow a type or include a name"
            )
        return {name: direct_weights(module, name, named[name]) for name in ordered if name in chosen}

    def _by_type(self, module: nn.Module, first: dict[str, str]) -> tuple[set[str], dict[str, str]]:
        """Return the parameters of the chosen types, and the others with the reason."""
        owners: dict[str, list[tuple[str, bool]]] = {}
        for name, wanted in owned_weights(module, self.types):
            owners.setdefault(first[name], []).append((name, wanted))
        chosen = {name for name, uses in owners.items() if all(wanted for _, wanted in uses)}
        left_out: dict[str, str] = {}
        for name, uses in owners.items():
            if name not in chosen and any(wanted for _, wanted in uses):
                left_out[name] = _why_shared(name, dict(uses), self.types)
        for name, kind in unserved_weights(module, self.types):
            left_out.setdefault(first[name], kind)
        if "linear" in self.types:
            foreign = {first[name]: p.numel() for name, p in foreign_weights(module) if first[name] not in owners}
            served = sum(p.numel() for name, p in module.named_parameters() if name in chosen)
            if sum(foreign.values()) > _WORTH_A_WORD * served:
                left_out |= dict.fromkeys(foreign, _FOREIGN)
        return chosen, left_out


_WORTH_A_WORD = 0.1
"""Matrices of unknown layers are named if they hold more than this share of the selected weights."""
_FOREIGN = "of a layer of unknown type: name it in include to make it sparse"


def _why_shared(name: str, uses: dict[str, bool], types: Sequence[str]) -> str:
    """Say why a tensor of several names stays dense: not all of its layers are of the chosen types."""
    unwanted = [alias for alias, wanted in uses.items() if not wanted]
    if name in unwanted:
        shared = ", ".join(alias for alias in uses if alias != name)
        return f"shared with {shared}; its own type is not among {', '.join(types)}"
    return f"shared with {unwanted[0]}, whose type is not among {', '.join(types)}"


def _first_names(module: nn.Module) -> dict[str, str]:
    """Map every name of every parameter to the first name of its tensor."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(p), name) for name, p in module.named_parameters(remove_duplicate=False)}


def _listed(left_out: dict[str, str], most: int = 4) -> str:
    """Format names with their reasons, listing only the first few names per reason."""
    reasons: dict[str, list[str]] = {}
    for name, why in left_out.items():
        reasons.setdefault(why, []).append(name)
    parts: list[str] = []
    for why, names in reasons.items():
        more = f" and {len(names) - most} more" if len(names) > most else ""
        parts.append(f"{', '.join(names[:most])}{more} ({why})")
    return "; ".join(parts)


def _matches(pattern: str, names: list[str]) -> list[str]:
    if pattern.startswith("re:"):
        try:
            found = [name for name in names if re.search(pattern[3:], name)]
        except re.error as error:
            raise ValueError(f"prunable pattern {pattern!r} is not a regular expression: {error}") from None
    else:
        found = [name for name in names if name == pattern or fnmatch.fnmatchcase(name, pattern)]
        found = found or [name for name in names if name.startswith(pattern + ".")]  # a module's name
    if not found:
        hint = did_you_mean(pattern, names, cutoff=0.0)
        raise ValueError(f"prunable pattern {pattern!r} matches no parameter{hint}")
    return found
