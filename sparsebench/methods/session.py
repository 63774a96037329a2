"""What belongs to a sparse model while the process lives, and needs no saving: how it runs, and a trial of speed."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from sparsebench.execution import ChannelNetwork, Trial, WeightNetwork
from sparsebench.sparse.model import SparseModel

Network = ChannelNetwork | WeightNetwork


@dataclass
class Session:
    """What belongs to a network while the process lives, and needs no saving.

    Attributes:
        network: runs with masks.
        trial: times two ways of running it.
        micro: micro-batches seen in this step.
        costs: of the last pair of draws: share of each weight, nominal and executed.
    """

    network: Network
    trial: Trial = field(default_factory=Trial)
    micro: int = 0
    costs: tuple[tuple[dict[str, float], dict[str, float]], ...] = ()


_SESSIONS: weakref.WeakKeyDictionary[SparseModel, Session] = weakref.WeakKeyDictionary()


def session_of(net: SparseModel, build: Callable[[SparseModel], Network]) -> Session:
    """Return the session of a sparse model, begun when it is first asked for."""
    if net not in _SESSIONS:
        _SESSIONS[net] = Session(build(net))
    return _SESSIONS[net]


def module_of(net: SparseModel) -> nn.Module:
    """Return the network of a sparse model.

    Raises:
        ValueError: it is not known.
    """
    if net.module is None:
        raise ValueError("drawn masks need the whole network: build the SparseModel with SparseModel.of(module)")
    return net.module


def cpu(score: Tensor) -> Tensor:
    """Return values on the CPU, where masks are drawn."""
    return score.detach().cpu()


def one_of(name: str, value: Any, allowed: Any) -> None:
    """Refuse what is not allowed."""
    if value not in allowed:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(str(choice) for choice in allowed)}")
