"""Tensors that replace parameters and buffers of a network while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from sparsebench.execution.gather import take
from sparsebench.execution.liveness import named


@dataclass
class StandIns:
    """Tensors that replace parameters and buffers, and the statistics to write back.

    Attributes:
        tensors: tensors by name of the parameter or buffer.
        returns: (buffer, its live indices, the tensor that replaced it, the same channels in that tensor).
    """

    tensors: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    returns: list[tuple[Tensor, Tensor, Tensor, Tensor]] = field(
        default_factory=list[tuple[Tensor, Tensor, Tensor, Tensor]]
    )

    def layer(self, name: str, layer: Any, rows: Tensor | None = None, columns: Tensor | None = None) -> None:
        """Gather rows and columns of a weight, and the same rows of its bias."""
        self.tensors[f"{name}.weight"] = take(layer.weight, rows, columns)
        if layer.bias is not None:
            self.tensors[f"{name}.bias"] = take(layer.bias, rows)

    def norm(self, name: str, norm: Any, live: Tensor, *, wide: Tensor | None = None) -> None:
        """Gather scale, shift and running statistics of a norm.

        Args:
            name: name of the norm.
            norm: the norm.
            live: bool [channels].
            wide: channels to gather, including dead ones; None = all.
        """
        rows = None if wide is None or bool(wide.all()) else _indices(wide, live.device)
        if norm.weight is not None:
            self.layer(name, norm, None if rows is None else rows.to(norm.weight.device))
        part = live if wide is None else live[wide]
        for kind in ("running_mean", "running_var"):
            buffer = getattr(norm, kind)
            if buffer is None:
                continue
            stand_in = buffer.clone() if rows is None else buffer.index_select(0, rows.to(buffer.device))
            if kind == "running_mean" and norm.weight is None:  # otherwise scale and shift make a dead channel zero
                stand_in.masked_fill_(~part.to(buffer.device), 0.0)
            self.tensors[f"{name}.{kind}"] = stand_in
            self.returns.append((buffer, _indices(live, buffer.device), stand_in, _indices(part, buffer.device)))
        self.zero_dead(name, live, wide=wide)

    def zero_dead(self, name: str, live: Tensor, *, wide: Tensor | None = None) -> None:
        """Multiply weight and bias of dead channels by zero, if the gathered channels include any."""
        part = live if wide is None else live[wide]
        if bool(part.all()):
            return
        for kind in ("weight", "bias"):
            tensor = self.tensors.get(f"{name}.{kind}")
            if tensor is not None:
                factor = part.to(tensor.device, tensor.dtype).reshape(-1, *[1] * (tensor.dim() - 1))
                self.tensors[f"{name}.{kind}"] = tensor * factor

    @torch.no_grad()
    def write_back(self) -> None:
        """Write running statistics back to the live channels."""
        for buffer, full, stood_in, part in self.returns:
            buffer.index_copy_(0, full, stood_in.index_select(0, part))


def copied_statistics(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of the statistics of all norms, to be updated in place of the real ones."""
    return {
        f"{name}.{kind}": buffer.clone()
        for name, layer in named(module).items()
        if isinstance(layer, _BatchNorm)
        for kind, buffer in layer.named_buffers(recurse=False)
    }


def _indices(live: Tensor, device: torch.device) -> Tensor:
    return live.nonzero().reshape(-1).to(device)
