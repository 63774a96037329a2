"""SparseModel: parameters, masks, memory and learned scores; the one place where sparse state lives."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

from sparsebench.functional.random import generator
from sparsebench.functional.rows import lift_rows
from sparsebench.functional.select import lift_empty
from sparsebench.sparse.digest import digest
from sparsebench.sparse.layers import norms_of, transposed
from sparsebench.sparse.prunable import Prunable
from sparsebench.sparse.tensors import clear_, whole_numbers


class SparseModel:
    """Hold everything about sparsity that must survive a step.

    Attributes:
        params: the parameters that may be sparse, by name.
        masks: bool, shape and strides of the parameter; no entry means dense.
        memory: tensors that a method needs between steps, by kind and parameter; saved in checkpoints.
            ``memory["fired"]`` is the union of all masks so far.
        learned: scores or thresholds trained along with the weights.
        seed: the root of every random draw, a pure function of (seed, path).
        module: the network that the parameters belong to, for methods that need its structure; None where unknown.
        runtime: how the network runs (``execution.Runtime``); lives as long as the process and is never saved. None
            means that the module runs unchanged.
        scratch: values that a method keeps from one hook of a step to the next; never saved.
        version: how often the masks have changed.
        transposed: names of parameters whose first dimension counts inputs, not outputs.
        floor: True when no change of the masks may leave a layer empty.
        change: weights that the last change activated, as a share of the active ones (flip rate); a scalar tensor.
    """

    def __init__(self, params: Mapping[str, Parameter], *, seed: int = 0, module: nn.Module | None = None) -> None:
        if not params:
            raise ValueError("a SparseModel needs at least one parameter: none was given")
        self.params = dict(params)
        self.masks: dict[str, Tensor] = {}
        self.memory: dict[str, dict[str, Tensor]] = {}
        self.learned: dict[str, Parameter] = {}
        self.seed = seed
        self.module = module
        self.runtime: Any = None
        self.scratch: dict[str, dict[str, Tensor]] = {}
        self.version = 0
        self.transposed = {name for name in self.params if transposed(module, name)}
        self.floor = False
        self.change = torch.zeros(())
        self._floats: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._remembered: dict[str, dict[str, int]] = {}
        self._norms = norms_of(module, self.params)

    @classmethod
    def of(cls, module: nn.Module, prunable: Prunable | None = None, *, seed: int = 0) -> "SparseModel":
        """Select the prunable parameters of a module: convolution and linear weights by default."""
        return cls((prunable or Prunable()).select(module), seed=seed, module=module)

    # -- reading ------------------------------------------------------------------------------------------------

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each parameter."""
        return {name: tuple(p.shape) for name, p in self.params.items()}

    @property
    def counts(self) -> dict[str, int]:
        """Number of active weights in each parameter, counted once per change of the masks."""
        if not self._counts:
            ones = whole_numbers({name: mask.count_nonzero() for name, mask in self.masks.items()})
            self._counts = {name: ones.get(name, p.numel()) for name, p in self.params.items()}
        return self._counts

    def remembered(self, kind: str) -> dict[str, int]:
        """Number of ones in each mask of ``memory[kind]``, counted once per change of the masks."""
        if kind not in self._remembered:
            ones = {name: mask.count_nonzero() for name, mask in self.memory[kind].items()}
            self._remembered[kind] = whole_numbers(ones)
        return self._remembered[kind]

    @property
    def densities(self) -> dict[str, float]:
        """Share of active weights in each parameter."""
        return {name: count / self.params[name].numel() for name, count in self.counts.items()}

    @property
    def density(self) -> float:
        """Share of active weights over all parameters that may be sparse."""
        return sum(self.counts.values()) / sum(p.numel() for p in self.params.values())

    def mask(self, name: str) -> Tensor:
        """Return the mask of a parameter; all ones if it is dense."""
        if name in self.masks:
            return self.masks[name]
        return torch.ones_like(self.params[name], dtype=torch.bool)

    def gradients(self) -> dict[str, Tensor]:
        """Return the gradients of the parameters; zeros where a gradient is missing."""
        return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in self.params.items()}

    def generator(self, *path: int | str) -> torch.Generator:
        """Return a generator that depends only on the seed and the path: no state to save or to broadcast."""
        return generator(self.seed, *path)

    def digest(self) -> str:
        """Return the 64-bit fingerprint of the masks."""
        return digest(self.masks)

    # -- the only method that changes masks ------------------------------------------------------------------

    @torch.no_grad()
    def set_masks(
        self,
        masks: Mapping[str, Tensor],
        optimizer: Optimizer | None = None,
        *,
        keep: Mapping[str, Tensor] | None = None,
        clear: bool = True,
    ) -> None:
        """Adopt new masks: validate, copy, and clear weights and optimizer moments where needed.

        Args:
            masks: bool tensors by parameter name; parameters that are not named keep their masks.
            optimizer: its moments (every state tensor of the parameter's shape) are cleared with the weights.
            keep: positions whose value and moments may survive; by default those active before and after, so that a
                weight dropped and regrown in one update keeps both, and a newly grown one starts at zero.
            clear: False leaves weights and moments alone, for methods that compute zeros in the forward pass.

        Raises:
            ValueError: a name is unknown, or a shape or dtype is wrong; nothing is changed in that case.
        """
        for name, mask in masks.items():
            self._validate(name, mask)
        if self.floor:
            masks = lift_empty(masks, {name: self.params[name].abs() for name in masks})
        grown, active = 0, 0
        for name, mask in masks.items():
            survivors = (self.mask(name) if keep is None else keep[name]) if clear else None
            adopted = self._adopt(name, mask, survivors, optimizer)
            if name in self.masks:
                grown = grown + (adopted & ~self.masks[name]).count_nonzero()
            active = active + adopted.count_nonzero()
            self.masks[name] = adopted
            fired = self.memory.setdefault("fired", {})
            fired[name] = fired[name] | adopted if name in fired else adopted.clone()
        self.version += 1
        self.change = torch.as_tensor(grown / active) if masks else torch.zeros(())
        self._floats, self._counts, self._remembered = {}, {}, {}

    def _adopt(self, name: str, mask: Tensor, survivors: Tensor | None, optimizer: Optimizer | None) -> Tensor:
        """Return a mask with the strides of its parameter; clear weights that are not survivors, unless None."""
        parameter = self.params[name]
        adopted = torch.empty_like(parameter, dtype=torch.bool).copy_(mask)
        kept = adopted if survivors is None else survivors.to(parameter.device)
        if name in self._norms:
            adopted, kept = lift_rows(adopted, kept, parameter.abs(), self._norms[name])
        if survivors is not None:
            clear_(parameter, kept & adopted, optimizer)
        return adopted

    def _validate(self, name: str, mask: Tensor) -> None:
        if name not in self.params:
            raise ValueError(f"{name!r} may not be sparse and cannot have a mask; allowed are {', '.join(self.params)}")
        shape = tuple(self.params[name].shape)
        if mask.dtype != torch.bool or tuple(mask.shape) != shape:
            raise ValueError(f"mask of {name}: {mask.dtype} {tuple(mask.shape)} given, torch.bool {shape} needed")

    # -- stored zeros ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def mask_gradients_(self) -> None:
        """Set gradients outside the masks to zero; missing gradients and dense layers are skipped."""
        counts = self.counts
        sparse = {n: p for n, p in self.params.items() if counts[n] < p.numel()}
        pairs = [(p.grad, self._float(n)) for n, p in sparse.items() if p.grad is not None]
        if pairs:
            torch._foreach_mul_([g for g, _ in pairs], [m for _, m in pairs])  # pyright: ignore

    @torch.no_grad()
    def project_(self) -> None:
        """Set the weights outside the masks to zero."""
        for name, mask in self.masks.items():
            self.params[name].masked_fill_(~mask, 0.0)

    def masked(self) -> dict[str, Tensor]:
        """Return the weights times their masks, differentiable with respect to the dense weights."""
        return {name: self.params[name] * self._float(name) for name in self.masks}

    def _float(self, name: str) -> Tensor:
        """Return the mask as floats: one cached copy per version, because bool times float is slow on CPU."""
        parameter = self.params[name]
        cached = self._floats.get(name)
        if cached is None or cached.dtype != parameter.dtype or cached.device != parameter.device:
            self.masks[name] = self.masks[name].to(parameter.device)
            cached = self._floats[name] = self.masks[name].to(parameter.dtype)
        return cached

    @torch.no_grad()
    def move_(self) -> None:
        """Move the sparse state to the parameters' device, since it does not move with the module."""
        device = next(iter(self.params.values())).device
        self.masks = {name: mask.to(device) for name, mask in self.masks.items()}
        self.memory = {kind: {n: t.to(device) for n, t in values.items()} for kind, values in self.memory.items()}
        for parameter in self.learned.values():
            parameter.data = parameter.data.to(device)
        self._floats = {}

    # -- saving ---------------------------------------------------------------------------------------------------

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Iterate over every tensor of the sparse state under a unique name."""
        for name, mask in self.masks.items():
            yield f"masks/{name}", mask
        for kind, values in self.memory.items():
            for name, value in values.items():
                yield f"memory/{kind}/{name}", value
        for name, value in self.learned.items():
            yield f"learned/{name}", value.detach()

    def state_dict(self) -> dict[str, Any]:
        """Return the sparse state as plain tensors and numbers."""
        return {
            "version": self.version,
            "change": float(self.change),
            "tensors": {name: t.detach().cpu() for name, t in self.tensors()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that ``state_dict`` returned; raise an error for parameters that do not exist here."""
        device = next(iter(self.params.values())).device
        self.masks, self.memory = {}, {}
        for path, tensor in state["tensors"].items():
            part, _, name = path.partition("/")
            if part == "masks":
                self._validate(name, tensor)
                self.masks[name] = torch.empty_like(self.params[name], dtype=torch.bool).copy_(tensor)
            elif part == "memory":
                kind, _, name = name.partition("/")
                self.memory.setdefault(kind, {})[name] = tensor.to(device)
            else:
                self.learned[name].data.copy_(tensor)
        self.version, self.change = state["version"], torch.tensor(state["change"])
        self._floats, self._counts, self._remembered = {}, {}, {}
