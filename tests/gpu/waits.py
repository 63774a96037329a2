"""Find host synchronisations: from CUDA itself on a GPU, from the operators that would wait there on a CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = {
    "_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive",
    "equal", "allclose", "bincount", "repeat_interleave",
}  # fmt: skip
"""Operators whose result, or its size, the host needs to know."""
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
"""Operators that wait where they are indexed by a mask: its ones are counted."""


class Waits(TorchDispatchMode):
    """Note every operator that would wait for a GPU.

    It cannot see copies between host and device: on a CPU there are none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = name in INDEXING and any(isinstance(i, Tensor) and i.dtype == torch.bool for i in args[1])
        if name in WAITING or masks:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


class Reads(TorchFunctionMode):
    """Note every call that brings values to the host, or a number to the device, without an operator that says so."""

    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        copies = name in ("tensor", "as_tensor") and (kwargs or {}).get("device") is not None
        if name in ("tolist", "cpu", "numpy") or copies:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


class Strict:
    """Fail at the first host synchronisation between ``begin`` and ``end``.

    Source: ``torch.cuda.set_sync_debug_mode``, which covers copies, ``.item()``, ``nonzero`` and what is built on them,
    but no operator of ``torch.distributed``.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self._waits = Waits()
        self._modes: contextlib.ExitStack | None = None

    def begin(self) -> None:
        """Look from now on."""
        if self.device == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        else:
            self._modes = contextlib.ExitStack()
            self._modes.enter_context(Reads(self._waits.seen))
            self._modes.enter_context(self._waits)

    def end(self) -> None:
        """Look no longer; on a CPU, fail now."""
        self.stop()
        assert self._waits.seen == [], f"a GPU would be waited for by {', '.join(self._waits.seen)}"

    def stop(self) -> None:
        """Look no longer."""
        if self.device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
        elif self._modes is not None:
            self._modes.close()
            self._modes = None


@contextlib.contextmanager
def strictly(device: str) -> Iterator[None]:
    """Run a block without a single host synchronisation."""
    strict = Strict(device)
    strict.begin()
    try:
        yield
    finally:
        strict.stop()
    strict.end()
