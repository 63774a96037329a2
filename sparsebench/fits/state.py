"""The result of a fit, and the start of the next: weights, masks and facts."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsebench.results.schema import with_current_names
from sparsebench.runs.atomic import replace_atomically

_LITTLE = 64 * 2**20  # bytes: with less free space, the disk is full


@dataclass(frozen=True)
class State:
    """Weights and masks of a network, with facts about the fit that made them.

    Attributes:
        weights: the network's plain ``state_dict``, zeros included.
        masks: bool, by parameter name; no entry means dense.
        facts: numbers about the fit: steps, seconds, FLOPs, validation accuracy, ...
        members: weights of further networks whose predicted probabilities are averaged with the first network's.
    """

    weights: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    facts: Mapping[str, Any] = field(default_factory=dict)
    members: Sequence[Mapping[str, Tensor]] = ()

    def save(self, path: Path) -> None:
        """Write the state atomically."""
        parts = {"weights": dict(self.weights), "masks": dict(self.masks), "facts": dict(self.facts)}
        if self.members:
            parts["members"] = [dict(weights) for weights in self.members]
        save_tensors(parts, path)

    @classmethod
    def load(cls, path: Path) -> State:
        """Read a state; facts under names of earlier versions get their current names.

        Raises:
            ValueError: the file is damaged.
        """
        try:
            parts = torch.load(path, map_location="cpu", weights_only=True)
            return cls(**{**parts, "facts": with_current_names(parts.get("facts", {}))})
        except Exception as error:
            raise ValueError(f"{path} cannot be read ({type(error).__name__}): it is incomplete") from error


def save_tensors(value: Any, path: Path) -> None:
    """Write with ``torch.save``, so that a kill or a power cut leaves the old file or the new one."""
    replace_atomically(path, lambda partial: _save(value, partial))


def load_tensors(path: Path) -> Any:
    """Read the tensors that ``save_tensors`` has written.

    Raises:
        ValueError: the file is missing or damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds of errors for a truncated file
        why = "it is missing" if isinstance(error, FileNotFoundError) else type(error).__name__
        raise ValueError(f"{path} cannot be read ({why}): rerun=true trains again") from error


def _save(value: Any, path: Path) -> None:
    try:
        torch.save(value, path)
    except RuntimeError as error:  # torch's own writer does not report the system's reason
        free = shutil.disk_usage(path.parent).free
        if free < _LITTLE or "PytorchStreamWriter" in str(error) or "inline_container" in str(error):
            number = errno.ENOSPC if free < _LITTLE else errno.EFBIG
            raise OSError(number, os.strerror(number), str(path)) from error
        raise
