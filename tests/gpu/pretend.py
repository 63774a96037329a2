"""A device that is not there: tensors that say they are on a GPU, compute on the processor, and refuse to mix.

What a GPU refuses, and a processor never shows, is an operator on tensors of two devices. With these tensors the code
of every method meets that rule in CI. They say nothing about kernels, speed or rounding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
"""What they say: the one other device that every build of torch lets tensors name."""
MOVES = {"_to_copy", "copy_", "set_"}
"""Operators that may see two devices."""
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
"""Operators that take indices from the host too."""


class Pretend(Tensor):
    """A tensor of the processor that says it is on a GPU."""

    @staticmethod
    def __new__(cls, real: Tensor) -> Pretend:
        with _disable_current_modes():
            made = Tensor._make_wrapper_subclass(
                cls, real.shape, strides=real.stride(), dtype=real.dtype, device=DEVICE, requires_grad=False
            )
            made.held = real.detach()
        return made

    def __repr__(self, **kwargs) -> str:
        return f"Pretend({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return carry_out(func, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self):
        return self.held.tolist()

    def numpy(self, **kwargs):
        raise TypeError("values of another device cannot be read as numpy")


class _Operators(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return carry_out(func, args, kwargs or {})


class _Numbers(TorchFunctionMode):
    """Tensors made from Python's numbers pass by the operators."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        asked = kwargs.get("device")
        if getattr(func, "__name__", "") in ("tensor", "as_tensor") and asked is not None:
            here = func(*args, **{**kwargs, "device": "cpu"})
            return Pretend(here) if torch.device(asked) == DEVICE else here
        return func(*args, **kwargs)


@contextlib.contextmanager
def pretending() -> Iterator[None]:
    """Make tensors that are asked for on the device."""
    with _Numbers(), _Operators():
        yield


def carry_out(func, args, kwargs):
    """Run an operator on the processor, if all its tensors say they are on one device."""
    name = func.overloadpacket.__name__
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    ours = [leaf for leaf in given if isinstance(leaf, Pretend)]
    there = [leaf for leaf in given if not isinstance(leaf, Pretend) and leaf.dim() > 0]
    if name in INDEXED and isinstance(args[0], Pretend):
        there = [leaf for leaf in there if not any(leaf is index for index in args[1])]
    if ours and there and name not in MOVES:
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, found two")
    asked = kwargs.get("device")
    on_gpu = bool(ours) if asked is None else torch.device(asked) == DEVICE
    if name == "copy_":
        on_gpu = isinstance(args[0], Pretend)
    inner = {**kwargs, "device": torch.device("cpu")} if asked is not None and on_gpu else kwargs
    out = func(*tree_map(_real, args), **tree_map(_real, inner))
    if not on_gpu:
        return out
    out = tree_map(lambda leaf: Pretend(leaf) if isinstance(leaf, Tensor) else leaf, out)
    return return_and_correct_aliasing(func, args, kwargs, out)


def _real(leaf):
    return leaf.held if isinstance(leaf, Pretend) else leaf


def move_(module: nn.Module) -> nn.Module:
    """Put a module's parameters and buffers there, in place."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            part._parameters[name] = nn.Parameter(Pretend(parameter.data))
        for name, buffer in part.named_buffers(recurse=False):
            part._buffers[name] = Pretend(buffer)
    return module
