"""Run a network with channel masks as the small dense network that it is, or masked at full size: equal numbers.

Small: kept rows and columns of every weight are gathered, the same modules run on the smaller tensors, and autograd
scatters the gradients into zero-filled full-size ones, so that optimizers, checkpoints and DDP see the parameters that
they know. Masked: the same network at full size, multiplied by zeros. Both follow the rule of ``spaces.py``, a dead
channel is zero everywhere, and both leave the running statistics of dead channels alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from sparsebench.execution.slices import Drop, Sum, take
from sparsebench.execution.spaces import Conv, Spaces, spaces, trace

Masks = Mapping[str, Tensor]
"""Name of a unit (the layer, or the first of those that share a mask) -> bool [outputs], on the CPU."""

Residual = Literal["union", "tied", "inner"]


@dataclass
class Pieces:
    """Tensors that stand in for parameters and buffers, and how statistics return from them.

    Attributes:
        tensors: by the name of the parameter or buffer.
        returns: (buffer, its live indices, the tensor that stood in, the same channels in it).
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    returns: list[tuple[Tensor, Tensor, Tensor, Tensor]] = field(default_factory=list)

    @torch.no_grad()
    def settle(self) -> None:
        """Write running statistics of live channels back."""
        for buffer, full, stood_in, part in self.returns:
            buffer.index_copy_(0, full, stood_in.index_select(0, part))


class ChannelNetwork:
    """A network whose convolutions, or hidden linear layers, can lose output channels.

    Args:
        module: the network; it is traced, never changed.
        layers: names of the layers that have masks.
        multiple: widths of small layers are rounded up to a multiple of this where that adds no more than an eighth:
            dead channels, multiplied by zero, fill up.
        residual: ``union``: every layer has a mask of its own, and a sum lives on the union of its summands; ``tied``:
            layers that add to one stream share a mask; ``inner``: layers that enter a sum have no mask.

    Attributes:
        units: name of a mask -> number of its channels; the name is that of the (first) layer.

    Raises:
        ValueError: channels cannot be removed; names the layer and the reason.
    """

    def __init__(
        self, module: nn.Module, layers: Iterable[str], *, multiple: int = 1, residual: Residual = "union"
    ) -> None:
        if multiple < 1:
            raise ValueError(f"widths cannot be rounded to a multiple of {multiple}: give 1 (no rounding) or more")
        if residual not in get_args(Residual):
            raise ValueError(f"residual {residual!r} must be one of {', '.join(get_args(Residual))}")
        self.module, self.multiple = module, multiple
        self.modules: dict[str, nn.Module] = dict(module.named_modules())
        self._traced: dict[bool, tuple[fx.Graph, fx.GraphModule | None]] = {}
        self._leaders = {name: name for name in layers}
        found = spaces(self._graph()[0], self.modules, self._partial())
        if residual == "inner":
            self._leaders = {name: name for name in self._leaders if name not in found.summed}
            self._traced = {}
        elif residual == "tied":
            self._tie(found)
        self.units = {name: _outputs(self.modules[name]) for name in self._leaders.values()}

    @classmethod
    def of(
        cls, module: nn.Module, parameters: Iterable[str], *, multiple: int = 1, residual: Residual = "union"
    ) -> ChannelNetwork:
        """Let the convolutions lose channels whose weights are among ``parameters``.

        In a network without convolutions, the hidden linear layers do.

        Raises:
            ValueError: there is none, or channels cannot be removed.
        """
        allowed = set(parameters)
        named = dict(module.named_modules())
        layers = [n for n, m in named.items() if isinstance(m, Conv) and f"{n}.weight" in allowed]
        if not any(isinstance(m, Conv) for m in named.values()):
            called = [str(n.target) for n in trace(module).nodes if n.op == "call_module"]
            linear = [n for n in called if isinstance(named[n], nn.Linear)]
            layers = [n for n in linear[:-1] if f"{n}.weight" in allowed]
        if not layers:
            raise ValueError(
                "no layer may lose channels: let a convolution be sparse (prunable), or use method.level=weight"
            )
        return cls(module, layers, multiple=multiple, residual=residual)

    # -- structure ------------------------------------------------------------------------------------------------

    def _graph(self) -> tuple[fx.Graph, fx.GraphModule | None]:
        """Trace once for each mode, and put sums of channel subsets in the place of sums, where there are any."""
        mode = self.module.training
        if mode not in self._traced:
            graph = trace(self.module)
            found = spaces(graph, self.modules, self._partial())
            self._traced[mode] = (graph, self._twin(found) if found.sums or found.pads else None)
        return self._traced[mode]

    def _twin(self, found: Spaces) -> fx.GraphModule:
        """Share the layers of the module in a graph that adds channel subsets."""
        graph = trace(self.module)
        twin = fx.GraphModule(self.module, graph)
        for node in list(twin.graph.nodes):
            if node.name in found.sums or node.name in found.pads:
                stand_in = f"_{node.name}"
                twin.add_submodule(stand_in, Sum() if node.name in found.sums else Drop())
                with twin.graph.inserting_before(node):
                    node.replace_all_uses_with(
                        twin.graph.call_module(stand_in, node.args[: 2 if node.name in found.sums else 1])
                    )
                twin.graph.erase_node(node)
        twin.recompile()
        return twin

    def _partial(self) -> dict[str, Tensor]:
        """Return masks with a dead channel in each layer: what cannot be sliced shows."""
        widths = {name: _outputs(self.modules[name]) for name in self._leaders}
        return {name: torch.arange(width) > 0 for name, width in widths.items()}

    def _tie(self, found: Spaces) -> None:
        order = list(self._leaders)
        for pair in found.ties:
            first, *others = sorted({self._leaders[name] for name in pair}, key=order.index)
            self._leaders = {name: first if leader in others else leader for name, leader in self._leaders.items()}

    def spaces(self, masks: Masks) -> Spaces:
        """Return the live channels at each place."""
        each = {name: masks[leader] for name, leader in self._leaders.items()}
        return spaces(self._graph()[0], self.modules, each)

    def shares(self, masks: Masks, *, executed: bool = False) -> dict[str, float]:
        """Return the share of each weight that the network of these masks multiplies by, by parameter name.

        Args:
            masks: bool; probabilities give the expectation under independent draws (not with tied masks).
            executed: count the dead channels that rounding adds.
        """
        found = self.spaces(self.rounded(masks) if executed else masks)
        return {
            f"{name}.weight": _share(out) * _share(None if _tied(self.modules[name]) else live)
            for name, (out, live) in found.layers.items()
        }

    def weight_masks(self, masks: Masks) -> dict[str, Tensor]:
        """Return the weights that stay, by parameter name: kept rows times kept columns."""
        kept: dict[str, Tensor] = {}
        for name, (out, live) in self.spaces(masks).layers.items():
            weight: Any = self.modules[name].weight
            rows = torch.ones(weight.shape[0], dtype=torch.bool) if out is None else out
            every = live is None or _tied(self.modules[name])
            columns = torch.ones(weight.shape[1], dtype=torch.bool) if every else live
            block = (rows[:, None] & columns).reshape(*weight.shape[:2], *[1] * (weight.dim() - 2))
            kept[f"{name}.weight"] = block.expand(weight.shape).contiguous().to(weight.device)
        return kept

    def rounded(self, masks: Masks) -> dict[str, Tensor]:
        """Fill widths up to a multiple with the first dead channels, where that adds no more than an eighth."""
        return {name: _fill(mask, self.multiple) for name, mask in masks.items()}

    # -- running --------------------------------------------------------------------------------------------------

    def run(
        self, call: Callable[[Mapping[str, Tensor]], Any], masks: Masks, *, small: bool = True, statistics: bool = True
    ) -> Any:
        """Call a function of weights in which the module runs with these masks.

        Args:
            call: calls the module, directly or not, with the given tensors in the place of its parameters and buffers,
                as an ``Objective`` does.
            masks: channels that live, at least one in each layer.
            small: whether the small network runs, or the full-size one multiplied by zeros.
            statistics: whether the running statistics of the norms learn from this call.

        Raises:
            ValueError: a layer has no live channel, or the network is compiled.
        """
        self._check(masks)
        pieces = self.small(masks) if small else self.masked(masks)
        if not statistics:
            pieces.tensors = copied_statistics(self.module) | pieces.tensors
        with self._installed(masks, small):
            result = call(pieces.tensors)
        if statistics and self.module.training:
            pieces.settle()
        return result

    def _check(self, masks: Masks) -> None:
        empty = [name for name, mask in masks.items() if not bool(mask.any())]
        if empty:
            raise ValueError(f"{empty[0]} has no live channel: every layer needs one")
        if getattr(self.module, "_compiled_call_impl", None) is not None:
            raise ValueError(
                "widths change from step to step, and each would be compiled anew: set trainer.compile=false"
            )

    def small(self, masks: Masks) -> Pieces:
        """Gather the tensors of the small network."""
        wide, live = self.spaces(self.rounded(masks)), self.spaces(masks)
        pieces = Pieces()
        for name, (out, inputs) in wide.layers.items():
            layer: Any = self.modules[name]
            rows, columns = self._index(out), self._index(None if _tied(layer) else inputs)
            pieces.tensors[f"{name}.weight"] = take(layer.weight, rows, columns)
            if layer.bias is not None and out is not None:
                pieces.tensors[f"{name}.bias"] = take(layer.bias, rows)
            self._silence(pieces, name, out, live.layers[name][0])
        for name, out in wide.norms.items():
            _norm(pieces, name, self.modules[name], self._index(out), out, live.norms[name])
            self._silence(pieces, name, out, live.norms[name])
        return pieces

    def masked(self, masks: Masks) -> Pieces:
        """Multiply the tensors of the full-size network by zeros."""
        found, pieces = self.spaces(masks), Pieces()
        for name, (out, _) in found.layers.items():
            if out is not None:
                self._own(pieces, name)
                self._silence(pieces, name, None, out)
        for name, live in found.norms.items():
            self._own(pieces, name)
            _norm(pieces, name, self.modules[name], None, None, live)
            self._silence(pieces, name, None, live)
        return pieces

    def _own(self, pieces: Pieces, name: str) -> None:
        for kind in ("weight", "bias"):
            tensor = getattr(self.modules[name], kind)
            if tensor is not None:
                pieces.tensors[f"{name}.{kind}"] = tensor

    def _silence(self, pieces: Pieces, name: str, wide: Tensor | None, live: Tensor | None) -> None:
        """Multiply what belongs to dead channels by zero, if any is present."""
        if live is None or (wide is not None and torch.equal(wide, live)):
            return
        for kind in ("weight", "bias"):
            tensor = pieces.tensors.get(f"{name}.{kind}")
            if tensor is not None:
                factor = (live if wide is None else live[wide]).to(tensor.device, tensor.dtype)
                pieces.tensors[f"{name}.{kind}"] = tensor * factor.reshape(-1, *[1] * (tensor.dim() - 1))

    def _index(self, live: Tensor | None) -> Tensor | None:
        return None if live is None or bool(live.all()) else live.nonzero().reshape(-1).to(self._device)

    @property
    def _device(self) -> torch.device:
        return next(self.module.parameters()).device

    @contextlib.contextmanager
    def _installed(self, masks: Masks, small: bool) -> Iterator[None]:
        """Let the module run through its twin, whose sums know where channels go, and depthwise layers be narrow."""
        with contextlib.ExitStack() as stack:
            if small:
                found = self.spaces(self.rounded(masks))
                for name, (out, _) in found.layers.items():
                    if out is not None and _tied(self.modules[name]):
                        _swap(stack, vars(self.modules[name]), "groups", int(out.sum()))
                _, twin = self._graph()
                if twin is not None:
                    self._place(twin, found)
                    _swap(stack, vars(self.module), "forward", twin.forward)
            yield

    def _place(self, twin: nn.Module, found: Spaces) -> None:
        for name, (one, two, both) in found.sums.items():
            total: Any = next(live for live in (both, one, two) if live is not None)
            among = torch.ones_like(total) if both is None else total
            node: Any = twin.get_submodule(f"_{name}")
            node.places = (_places(one, among, self._device), _places(two, among, self._device))
            node.size = int(among.sum())


def _swap(stack: contextlib.ExitStack, own: dict[str, Any], name: str, value: Any) -> None:
    """Set an attribute of an object until the stack closes."""
    if name in own:
        stack.callback(own.__setitem__, name, own[name])
    else:
        stack.callback(own.__delitem__, name)
    own[name] = value


def copied_statistics(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of the statistics of all norms, to learn in the place of the real ones."""
    return {
        f"{name}.{kind}": buffer.clone()
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm)
        for kind, buffer in layer.named_buffers(recurse=False)
    }


def _norm(pieces: Pieces, name: str, norm: Any, rows: Tensor | None, wide: Tensor | None, live: Tensor) -> None:
    """Gather scale, shift and running statistics."""
    for kind in ("weight", "bias"):
        if getattr(norm, kind) is not None:
            pieces.tensors[f"{name}.{kind}"] = take(getattr(norm, kind), rows)
    for kind in ("running_mean", "running_var"):
        buffer = getattr(norm, kind)
        if buffer is not None:
            stands_in = buffer.clone() if rows is None else buffer.index_select(0, rows)
            pieces.tensors[f"{name}.{kind}"] = stands_in
            part = live if wide is None else live[wide]
            if kind == "running_mean" and norm.weight is None:
                stands_in.masked_fill_(
                    ~part.to(buffer.device), 0.0
                )  # a dead channel is zero without scale and shift too
            returns = (live.nonzero().reshape(-1).to(buffer.device), part.nonzero().reshape(-1).to(buffer.device))
            pieces.returns.append((buffer, returns[0], stands_in, returns[1]))


def _outputs(layer: Any) -> int:
    return int(layer.weight.shape[0])


def _share(live: Tensor | None) -> float:
    return 1.0 if live is None else float(live.to(torch.float64).mean())


def _tied(layer: nn.Module) -> bool:
    return getattr(layer, "groups", 1) > 1


def _places(live: Tensor | None, among: Tensor, device: torch.device) -> Tensor | None:
    if live is None or torch.equal(live, among):
        return None
    return live[among].nonzero().reshape(-1).to(device)


def _fill(mask: Tensor, multiple: int) -> Tensor:
    count = int(mask.sum())
    missing = min(-count % multiple, len(mask) - count)
    if not missing or missing * 8 > count:
        return mask
    filled = mask.clone()
    filled[(~mask).nonzero().reshape(-1)[:missing]] = True
    return filled
