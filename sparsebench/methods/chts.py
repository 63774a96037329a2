"""Cannistraci-Hebb training with the soft rule: dropped and grown links are drawn, not ranked (Zhang et al. 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.fx import Node, symbolic_trace
from torch.fx.proxy import TraceError
from torch.nn import functional

from sparsebench.methods.base import Clock
from sparsebench.methods.cht import CHT, RULES
from sparsebench.patterns import Unstructured
from sparsebench.runs.messages import check_choice
from sparsebench.sparse.model import SparseModel

BETWEEN = (nn.Dropout, nn.BatchNorm1d, nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Identity)
"""Modules that act on each neuron separately: linear layers with only these between them form a chain."""
FUNCTIONS = (
    functional.relu,
    functional.gelu,
    functional.silu,
    functional.dropout,
    torch.relu,
    torch.tanh,
    torch.sigmoid,
)
"""Functions that act on each neuron separately."""


@dataclass(frozen=True, kw_only=True)
class CHTs(CHT):
    """Draw the kept weights in proportion to magnitude, and the grown ones in proportion to link-prediction score.

    Draws are without replacement. The active links of a layer stay with probabilities proportional to ``|w|^T``, where
    the exponent T rises from 1 to 3 until the last update: early removals are random, late ones nearly as in ``CHT``.
    Links of neurons that have lost all their inputs or all their outputs are removed as well, and as many links grow as
    were removed. Source: arXiv 2501.19107 and the code of its experiments on transformers.

    Args:
        removal: ``magnitude``: |w|; ``relative``: |w| over the sum of its row, plus |w| over the sum of its column.
        chain_removal: whether to remove links of idle neurons in consecutive linear layers; other layers keep them.
            Needs ``pattern=unstructured``.
    """

    paper: ClassVar[str] = "chts"

    rule: Literal["ch3_l3p", "ch2_l3n"] = "ch2_l3n"
    every: float = 100
    early_stop: float | None = None
    removal: Literal["magnitude", "relative"] = "magnitude"
    chain_removal: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("removal", self.removal, ("magnitude", "relative"))
        if self.chain_removal and not isinstance(self.pattern, Unstructured):
            raise ValueError(
                f"chain_removal removes single weights, and pattern {type(self.pattern).__name__} does not allow it: "
                f"choose chain_removal=false, or pattern=unstructured"
            )

    # -- removal ----------------------------------------------------------------------------------------------------

    def drop(self, net: SparseModel, clock: Clock, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the kept links, drawn by strength, without links of neurons that the draw left idle."""
        share, temperature = self.drops(clock) or 0.0, 1 + 2 * clock.between(0.0, self.until)
        kept: dict[str, Tensor] = {}
        for name, mask in net.masks.items():
            stay = net.counts[name] - self.dropped(net, name, share)
            law = temperature * self.drop_score(net, name, gradients).log()
            drawn = race(law, net.generator("stay", clock.step, name))
            kept[name] = self.pattern.prune(mask, drawn, stay, allow_regrow=not self.exclude_dropped)
        return self._without_idle(net, kept) if self.chain_removal else kept

    def drop_score(self, net: SparseModel, name: str, gradients: Mapping[str, Tensor]) -> Tensor:
        """Return the strength of each link: its magnitude, or that among the links of its two neurons."""
        strength = super().drop_score(net, name, gradients)
        if self.removal == "magnitude":
            return strength
        rows = strength.reshape(len(strength), -1)
        sums = (rows + 1e-5).sum(dim=0, keepdim=True), (rows + 1e-5).sum(dim=1, keepdim=True)
        return (rows / sums[0] + rows / sums[1]).reshape(strength.shape)

    def _without_idle(self, net: SparseModel, kept: dict[str, Tensor]) -> dict[str, Tensor]:
        """Drop links into neurons without an output, then links out of neurons without an input, chain by chain."""
        for first, second in chains(net):
            if not (bool(net.memory["stopped"][first]) or bool(net.memory["stopped"][second])):
                kept[first] = kept[first] & kept[second].any(dim=0)[:, None]
                kept[second] = kept[second] & kept[first].any(dim=1)[None, :]
        return kept

    # -- growth ---------------------------------------------------------------------------------------------------

    def promise(self, net: SparseModel, name: str, clock: Clock, kept: Tensor, count: int) -> Tensor:
        """Return a race between the missing links at their scores; all may run where too few are predicted."""
        score = RULES[self.rule](kept.reshape(len(kept), -1)).reshape(kept.shape).masked_fill(kept, 0.0)
        few = (score > 0).sum() < count
        score = torch.where(few & ~kept, score + 1e-5, score)
        return race(score.log(), net.generator("grow", clock.step, name))


def race(law: Tensor, stream: torch.Generator) -> Tensor:
    """Return scores whose k largest are a draw of k places without replacement, for every k.

    The Gumbel trick: with independent Gumbel noise added to log weights, sorting in descending order equals drawing one
    place after the other, each in proportion to its weight among the remaining ones. Weight 0 (log -inf) comes last.

    Args:
        law: log probabilities up to a constant, any shape.
        stream: generator of the noise, on the processor.

    Returns:
        float64, same shape and device.
    """
    uniform = torch.rand(law.shape, generator=stream, dtype=torch.float64).clamp(min=1e-300)
    return law.double() - (-uniform.log()).log().to(law.device)


def chains(net: SparseModel) -> list[tuple[str, str]]:
    """Return pairs of sparse linear weights of which the second alone reads the neurons of the first.

    Between them are only modules and functions that act on each neuron separately. Networks that ``torch.fx`` cannot
    trace have no such pairs.
    """
    if net.module is None:
        return []
    try:
        nodes = list(symbolic_trace(net.module).graph.nodes)
    except (TraceError, TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError):
        return []
    modules = dict(net.module.named_modules())  # pyright: ignore
    pairs: list[tuple[str, str]] = []
    for node in nodes:
        if _linear(node, modules):
            after = node
            while len(after.users) == 1 and _elementwise(after := next(iter(after.users)), modules):
                pass
            names = f"{node.target}.weight", f"{after.target}.weight"
            if after is not node and _linear(after, modules) and set(names) <= set(net.masks):
                pairs.append(names)
    return pairs


def _linear(node: Node, modules: Mapping[str, nn.Module]) -> bool:
    return node.op == "call_module" and isinstance(modules[str(node.target)], nn.Linear)


def _elementwise(node: Node, modules: Mapping[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], BETWEEN)
    return node.op == "call_function" and node.target in FUNCTIONS
