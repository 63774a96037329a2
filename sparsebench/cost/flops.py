"""Cost of each layer in multiply-accumulates: one forward pass of one traced sample, every weight present.

Convolutions, linear layers, attention and every other matrix product count; biases, norms, activations and pooling do
not. 1 MAC = 2 FLOP. The gradients with respect to inputs and weights cost as much as one forward pass each.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

FLOPS_PER_MAC = 2


@dataclass(frozen=True)
class LayerCost:
    """Cost of one matrix product in one forward pass of one sample.

    Attributes:
        name: full name of the module in whose forward the product is computed.
        parameter: full name of the weight, or None for a product of two activations, as in attention.
        shape: shape of the weight; empty without one.
        macs: multiply-accumulates of the product with every weight present.
    """

    name: str
    parameter: str | None
    shape: tuple[int, ...]
    macs: int


def layer_costs(module: nn.Module, example: Tensor | tuple[Any, ...]) -> list[LayerCost]:
    """Trace one sample through a copy of a module in evaluation mode and list its products in execution order.

    The module's mode, buffers, gradients and random state do not change. The copy lives on the meta device, where
    nothing is computed; a module that needs real values falls back to its own device.

    Args:
        module: the network, dense.
        example: input of any batch size, or the tuple of inputs; the first sample of each tensor is traced.

    Returns:
        One entry per call: a weight that is used twice has two entries under one parameter name.
    """
    arguments = example if isinstance(example, tuple) else (example,)
    try:
        return _trace(module, arguments, _on_meta)
    except (RuntimeError, TypeError):
        return _trace(module, arguments, _on_device)


def dense_macs(costs: Iterable[LayerCost]) -> int:
    """Return the MACs of one forward pass of one sample with every weight present."""
    return sum(cost.macs for cost in costs)


def active_macs(costs: Iterable[LayerCost], densities: Mapping[str, float]) -> int:
    """Return the MACs of one forward pass of one sample with the active weights.

    Each product is rounded to a whole MAC. A density that is a count over a size gives a whole number anyway, so
    sums over steps are exact and do not depend on their order.

    Args:
        costs: the result of ``layer_costs``.
        densities: share of active weights by parameter name; 1 where a name is missing.
    """
    return sum(round(c.macs * densities.get(c.parameter, 1.0)) if c.parameter else c.macs for c in costs)


def dense_flops(costs: Iterable[LayerCost]) -> float:
    """Return the FLOPs (2 per MAC) of one forward pass of one sample with every weight present."""
    return float(FLOPS_PER_MAC * dense_macs(costs))


def inference_flops(costs: Iterable[LayerCost], densities: Mapping[str, float]) -> float:
    """Return the FLOPs (2 per MAC) of one forward pass of one sample with the active weights.

    Args:
        costs: the result of ``layer_costs``.
        densities: share of active weights by parameter name; 1 where a name is missing.
    """
    return float(FLOPS_PER_MAC * active_macs(costs, densities))


def _on_meta(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta")


def _on_device(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def _trace(module: nn.Module, arguments: tuple[Any, ...], place: Callable[[Tensor], Tensor]) -> list[LayerCost]:
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        _keep_random_state(stack, module)
        twin = _twin(module, place)

        def first(leaf: Any) -> Any:
            return place(leaf[:1]) if isinstance(leaf, Tensor) else leaf

        sample: tuple[Any, ...] = tree_map(first, arguments)
        recorder = _Recorder(twin)
        # run attention as separate products, the same on every device
        stack.enter_context(cast("AbstractContextManager[Any]", sdpa_kernel(SDPBackend.MATH)))
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)  # the fused operator would hide its products
        stack.enter_context(recorder)
        twin(*sample)
    return recorder.costs


def _twin(module: nn.Module, place: Callable[[Tensor], Tensor]) -> nn.Module:
    """Copy a module with its tensors on another device, without copying their values first."""
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(place(parameter.detach()), requires_grad=False)
    for buffer in module.buffers():
        memo[id(buffer)] = place(buffer)
    return copy.deepcopy(module, memo).eval()


def _keep_random_state(stack: ExitStack, module: nn.Module) -> None:
    stack.callback(torch.set_rng_state, torch.get_rng_state())
    for device in {p.device for p in module.parameters() if p.device.type == "cuda"}:
        stack.callback(torch.cuda.set_rng_state, torch.cuda.get_rng_state(device), device)


class _Recorder(TorchDispatchMode):
    """Record the products that reach the dispatcher, with the module and weight of each.

    ``origin`` knows the storages that do not depend on the input, with the parameter that each comes from: views,
    casts, standardised, normalised and masked weights are all found under the name of their parameter.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self.costs: list[LayerCost] = []
        self._shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
        self._origin: dict[StorageWeakRef, str | None] = {}
        self._running: list[str] = [""]
        for buffer in module.buffers():
            self._remember(buffer, None)
        for name, parameter in module.named_parameters():
            self._remember(parameter, name)
        for name, child in cast("Iterable[tuple[str, nn.Module]]", module.named_modules()):
            self._follow(name, child)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        if packet not in flop_registry:
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        if packet in flop_registry:
            self._record(packet, args, kwargs, out)
        else:
            self._inherit([leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)], out)
        return out

    def _record(self, packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        macs = flop_registry[packet](*args, **kwargs, out_val=out) // FLOPS_PER_MAC
        operands = [leaf for leaf in args if isinstance(leaf, Tensor) and leaf.dim() >= 2]
        # the weight is the operand to the right of its input (linear, convolution); the first operand of a sum is the
        # bias
        operands = operands[-2:]
        found = [name for operand in reversed(operands) if (name := self._origin.get(_key(operand)))]
        parameter = found[0] if found else None
        shape = self._shapes[parameter] if parameter else ()
        if macs:
            self.costs.append(LayerCost(self._running[-1], parameter, shape, macs))

    def _inherit(self, inputs: list[Tensor], out: Any) -> None:
        """Attribute the outputs of an operator whose inputs are all weights to the largest of them."""
        keys = [_key(tensor) for tensor in inputs]
        if not all(key in self._origin for key in keys):
            return
        names = [name for key in keys if (name := self._origin[key])]
        name = max(names, key=lambda one: torch.Size(self._shapes[one]).numel(), default=None)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and _key(tensor) not in self._origin:
                self._remember(tensor, name)

    def _remember(self, tensor: Tensor, name: str | None) -> None:
        self._origin[_key(tensor)] = name

    def _follow(self, name: str, module: nn.Module) -> None:
        def enter(*_: Any) -> None:
            self._running.append(name)

        def leave(*_: Any) -> None:
            self._running.pop()

        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)


def _key(tensor: Tensor) -> StorageWeakRef:
    """Identify a storage; the weak reference keeps the identity from being reused after the storage is freed."""
    return StorageWeakRef(tensor.untyped_storage())
