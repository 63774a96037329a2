"""Rules for tensor functions and methods: the channels of the result that can be non-zero."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, fx
from torch.nn import functional

ZERO_STAYS_FUNCTIONS: tuple[Any, ...] = (
    torch.relu, functional.relu, functional.gelu, functional.silu, functional.leaky_relu, functional.dropout,
    functional.adaptive_avg_pool2d, functional.avg_pool2d,
)  # fmt: skip
ZERO_STAYS_METHODS = ("relu", "relu_", "contiguous", "clone", "float", "to")


@dataclass(frozen=True)
class LiveSet:
    """The channels in which a tensor can be non-zero.

    Attributes:
        live: bool [channels], or the probability of each channel to be live; None = all channels, known or not.
        flat: whether channels and positions of an image are flattened into one axis, channel by channel.
        sources: masked layers whose outputs are summed in this tensor, channel by channel.
    """

    live: Tensor | None = None
    flat: bool = False
    sources: frozenset[str] = frozenset()


def union(one: Tensor | None, two: Tensor | None) -> Tensor | None:
    """Return the channels that are live in either set; for probabilities, of independent events."""
    if one is None or two is None:
        return None
    return one | two if one.dtype == torch.bool else one + two - one * two


def round_up(live: Tensor, multiple: int) -> Tensor:
    """Add dead channels up to a multiple, or to a multiple of its half, and so on, adding at most an eighth.

    Args:
        live: bool [channels].
        multiple: number to a multiple of which the channels are rounded; the full number always counts as one.
    """
    count = int(live.sum())
    while multiple > 1:
        missing = min(-count % multiple, live.shape[0] - count)
        if 8 * missing <= count:
            return live.index_fill(0, (~live).nonzero().reshape(-1)[:missing], True)
        multiple //= 2
    return live


def function(node: fx.Node, inputs: list[LiveSet]) -> LiveSet:
    """Return the live channels of the result of a function or method.

    Raises:
        ValueError: there is no rule for the function or method.
    """
    target: Any = node.target
    rule = _RULES.get(target)
    if rule is not None:
        return rule(node, inputs)
    keeps = target in (ZERO_STAYS_METHODS if node.op == "call_method" else ZERO_STAYS_FUNCTIONS)
    if not keeps:
        called = getattr(target, "__name__", target)
        refuse(node.name, f"{called} has no rule for the masked channels of {names(inputs)}")
    return inputs[0]


def _flatten(node: fx.Node, inputs: list[LiveSet]) -> LiveSet:
    positions = (*node.args[1:], *node.kwargs.values())
    if positions not in ((1,), (1, -1)):
        refuse(node.name, "only flatten(1) keeps channels apart")
    return LiveSet(inputs[0].live, True, inputs[0].sources)


def _mean(node: fx.Node, inputs: list[LiveSet]) -> LiveSet:
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    if not isinstance(dims, list | tuple) or sorted(cast(Any, dims)) not in ([2, 3], [-2, -1]):
        refuse(node.name, "only a mean over height and width keeps channels apart")
    keeps = bool(node.kwargs.get("keepdim", node.args[2] if len(node.args) > 2 else False))
    return LiveSet(inputs[0].live, not keeps, inputs[0].sources)


def _getitem(node: fx.Node, inputs: list[LiveSet]) -> LiveSet:
    index: Any = node.args[1]
    whole = slice(None)
    if not isinstance(index, tuple) or len(cast(Any, index)) < 2 or index[1] != whole:
        refuse(node.name, "indexing picks among masked channels")
    return inputs[0]


def _pad(node: fx.Node, inputs: list[LiveSet]) -> LiveSet:
    width: Any = node.args[1] if len(node.args) > 1 else node.kwargs["pad"]
    mode, value = (*node.args[2:], "constant", None)[:2] if len(node.args) > 2 else ("constant", None)
    value = node.kwargs.get("value", value)
    if node.kwargs.get("mode", mode) != "constant" or value or inputs[0].flat or not isinstance(width, list | tuple):
        refuse(node.name, "only zeros may be padded to masked channels")
    sizes = [int(size) for size in cast(Any, width)]
    if len(sizes) <= 4:
        return inputs[0]
    if len(sizes) != 6 or any(sizes[:4]) or min(sizes) < 0:
        refuse(node.name, "padding of channels and of positions in one call")
    live = cast(Tensor, inputs[0].live)
    return LiveSet(torch.cat([live.new_zeros(sizes[4]), live, live.new_zeros(sizes[5])]))


def _cat(node: fx.Node, inputs: list[LiveSet]) -> LiveSet:
    tensors: Any = node.args[0]
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    if dim != 1 or len(tensors) != len(inputs) or any(given.live is None or given.flat for given in inputs):
        refuse(node.name, "only whole channels that are all masked may be joined")
    return LiveSet(torch.cat([cast(Tensor, given.live) for given in inputs]))


_RULES: dict[Any, Callable[[fx.Node, list[LiveSet]], LiveSet]] = {
    torch.flatten: _flatten, "flatten": _flatten, torch.mean: _mean, "mean": _mean,
    operator.getitem: _getitem, functional.pad: _pad, torch.cat: _cat,
}  # fmt: skip


def names(inputs: list[LiveSet]) -> str:
    """Return the names of the masked layers that tensors come from."""
    return ", ".join(sorted({name for given in inputs for name in given.sources})) or "masked layers"


def refuse(name: str, reason: str) -> NoReturn:
    """Raise an error that names the layer, the reason and a remedy."""
    raise ValueError(
        f"channels cannot be removed around {name}: {reason}; leave the layers before it dense (prunable.exclude) or "
        f"mask single weights (method.level=weight)"
    )
