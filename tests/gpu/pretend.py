"""A GPU that is not there: tensors that say they are on ``cuda:0``, compute on the processor, and refuse to mix.

What a GPU refuses, and a processor never shows, is an operator on tensors of two devices. With these tensors the code
of every method meets that rule in CI, and takes the branches written for CUDA. The rule is torch's own: each operator
runs once more on fake tensors of ``cuda:0`` and ``cpu`` (``FakeTensorMode``), which know devices, shapes, types and
strides of results but no values. They say nothing about kernels, speed or rounding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedOperatorException,
)
from torch.autograd import Variable
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda", 0)
"""What they say to whoever asks."""
WITHIN = torch.device("meta")
"""What they say to torch's own code below Python: autograd has no queue for a GPU that is not there."""
UNKNOWN = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException)
"""Fake tensors cannot tell: the result, or its size, depends on values. On a GPU the host waits for those."""


class Pretend(Tensor):
    """A tensor of the processor that says it is on a GPU."""

    @staticmethod
    def __new__(cls, real: Tensor) -> Pretend:
        with _disable_current_modes():
            made = Tensor._make_wrapper_subclass(
                cls, real.shape, strides=real.stride(), dtype=real.dtype, device=WITHIN, requires_grad=False
            )
            made.held = real.detach()
        return made

    def __repr__(self, **kwargs) -> str:
        return f"Pretend({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return carry_out(func, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl

    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    is_meta = property(lambda self: False)

    def get_device(self):
        return 0

    def tolist(self):
        return self.held.tolist()

    def numpy(self, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")


class _Operators(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return carry_out(func, args, kwargs or {})


class _Calls(TorchFunctionMode):
    """Say ``meta`` where a call says ``cuda``: torch would look for a driver. Numbers pass by the operators."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in ("tensor", "as_tensor") and kwargs.get("device") is not None:
            here = func(*args, **{**kwargs, "device": "cpu"})
            return Pretend(here) if torch.device(kwargs["device"]).type in ("cuda", "meta") else here
        if name == "backward":  # its Python functions ask for tensors, too, where this mode is off
            slope = (torch.ones_like(args[0]),)
            with self:
                return Variable._execution_engine.run_backward(
                    (args[0],), slope, False, False, (), allow_unreachable=True, accumulate_grad=True
                )
        if name == "cuda":
            return args[0].to(WITHIN)
        args = tuple(_within(a) for a in args) if name == "to" else args
        return func(*args, **{key: _within(v) if key == "device" else v for key, v in kwargs.items()})


def _within(value):
    named = isinstance(value, torch.device) or (isinstance(value, str) and value.partition(":")[0] == "cuda")
    return WITHIN if named and torch.device(value).type == "cuda" else value


@contextlib.contextmanager
def pretending() -> Iterator[None]:
    """Make tensors that are asked for on the device."""
    with _Calls(), _Operators():
        yield


def carry_out(func, args, kwargs):
    """Run an operator on the processor, and its results where torch says they belong."""
    asked = kwargs.get("device")
    inner = {**kwargs, "device": torch.device("cpu")} if asked is not None else kwargs
    told = devices_of(func, args, kwargs)
    out = func(*tree_map(_real, args), **tree_map(_real, inner))
    if told is None:  # it depends on values: where the first of its tensors is
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        told = ["cuda" if any(isinstance(leaf, Pretend) for leaf in given) else "cpu"]
    made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
    where = iter(told * len(made) if len(told) == 1 else told)
    out = tree_map(
        lambda leaf: (Pretend(leaf) if next(where) == "cuda" else leaf) if isinstance(leaf, Tensor) else leaf, out
    )
    ours = any(isinstance(leaf, Pretend) for leaf in tree_leaves((args, kwargs, out)))
    return return_and_correct_aliasing(func, args, kwargs, out) if ours else out


# -- torch's own rule -------------------------------------------------------------------------------------------------

_FAKE = FakeTensorMode()
_KNOWN: dict[tuple, list[str] | Exception | None] = {}
_WAITING: set[tuple] = set()
WAITED: list[str] = []
"""Operators so far for whose values a host would have waited, according to torch's fake tensors."""


def devices_of(func, args, kwargs) -> list[str] | None:
    """Return the type of the device of each tensor that an operator returns; None where it depends on values.

    Raises:
        RuntimeError: the operator cannot take tensors of these devices.
    """
    if func.overloadpacket.__name__ == "set_":  # of a storage, which is no tensor
        return None
    key = (func, *(_signature(leaf) for leaf in tree_leaves((args, kwargs))), *sorted(kwargs))
    if key not in _KNOWN:
        try:
            _KNOWN[key] = _ask(func, args, kwargs)
        except UNKNOWN as error:
            _KNOWN[key] = None
            if not isinstance(error, UnsupportedOperatorException):
                _WAITING.add(key)
        except RuntimeError as error:
            _KNOWN[key] = error
    if key in _WAITING and any(isinstance(leaf, Pretend) for leaf in tree_leaves((args, kwargs))):
        WAITED.append(func.overloadpacket.__name__)
    found = _KNOWN[key]
    if isinstance(found, Exception):
        raise RuntimeError(f"{func}: {found}") from found
    return found


def _ask(func, args, kwargs) -> list[str]:
    with _disable_current_modes(), torch._C.DisableTorchFunction(), _FAKE:
        kwargs = {k: GPU if k == "device" and torch.device(v).type == "meta" else v for k, v in kwargs.items()}
        out = func(*tree_map(_fake, args), **tree_map(_fake, kwargs))
    return [leaf.device.type for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]


def _fake(leaf):
    if not isinstance(leaf, Tensor) or isinstance(leaf, FakeTensor):
        return leaf
    place = GPU if isinstance(leaf, Pretend) else torch.device("cpu")
    return torch.empty_strided(_real(leaf).shape, _real(leaf).stride(), dtype=leaf.dtype, device=place)


def _signature(leaf):
    if isinstance(leaf, Tensor):
        return isinstance(leaf, Pretend), tuple(leaf.shape), tuple(_real(leaf).stride()), leaf.dtype
    return type(leaf).__name__, repr(leaf)


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
