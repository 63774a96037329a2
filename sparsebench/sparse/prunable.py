"""Which parameters may be sparse: by type, name or pattern; never norms or biases unless they are named."""

import fnmatch
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from torch import nn
from torch.nn import Parameter

from sparsebench.runs.messages import did_you_mean

TYPES: dict[str, tuple[type[nn.Module], ...]] = {
    "conv": (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    "linear": (nn.Linear,),
    "attention": (nn.MultiheadAttention,),
    "embedding": (nn.Embedding,),
}


@dataclass(frozen=True)
class Prunable:
    """Select the parameters that may be sparse.

    Args:
        types: kinds of layers whose weights are taken: of ``conv``, ``linear``, ``attention``, ``embedding``.
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

        Raises:
            ValueError: when a pattern matches nothing, or nothing is left to be sparse.
        """
        named = dict(module.named_parameters())
        chosen = set(_weights_of(module, self.types))
        for pattern in self.include:
            chosen |= set(_matches(pattern, list(named)))
        chosen = {name for name in named if name in chosen}  # shared tensors once, under their first name
        ordered = [name for name in named if name in chosen]
        for pattern in self.exclude:
            chosen -= {ordered[0]} if pattern == "first" else {ordered[-1]} if pattern == "last" else set()
            if pattern not in ("first", "last"):
                chosen -= set(_matches(pattern, list(named)))
        if not chosen:
            raise ValueError(
                f"no parameter may be sparse: types {list(self.types)}, include {list(self.include)} and exclude "
                f"{list(self.exclude)} leave none of {len(named)}; allow a type or include a name"
            )
        return {name: named[name] for name in ordered if name in chosen}


def _weights_of(module: nn.Module, types: Sequence[str]) -> Iterator[str]:
    wanted = tuple(kind for name in types for kind in TYPES[name])
    layers = cast(Iterator[tuple[str, nn.Module]], module.named_modules())
    for prefix, layer in layers:
        if isinstance(layer, wanted):
            for name, parameter in layer.named_parameters(recurse=False):
                if parameter.dim() >= 2:
                    yield f"{prefix}.{name}" if prefix else name


def _matches(pattern: str, names: list[str]) -> list[str]:
    if pattern.startswith("re:"):
        try:
            found = [name for name in names if re.search(pattern[3:], name)]
        except re.error as error:
            raise ValueError(f"prunable pattern {pattern!r} is no regular expression: {error}") from None
    else:
        found = [name for name in names if name == pattern or fnmatch.fnmatchcase(name, pattern)]
        found = found or [name for name in names if name.startswith(pattern + ".")]  # a module's name
    if not found:
        hint = did_you_mean(pattern, names, cutoff=0.0)
        raise ValueError(f"prunable pattern {pattern!r} matches no parameter{hint}")
    return found
