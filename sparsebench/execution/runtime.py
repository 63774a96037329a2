"""What belongs to a sparse model while the process lives, and needs no saving: how it runs, and a trial of speed."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from sparsebench.execution import ChannelNetwork, Trial, WeightNetwork
from sparsebench.functional.score import Objective
from sparsebench.sparse.model import SparseModel

Masks = dict[str, Tensor]
Network = ChannelNetwork | WeightNetwork
Execution = Literal["compact", "masked", "auto"]


@dataclass
class Session:
    """What belongs to a network while the process lives, and needs no saving.

    Attributes:
        network: runs with masks.
        trial: times two ways of running it.
        micro: micro-batches seen in this step.
        costs: of the last pair of draws: share of each weight, nominal and executed.
        live: channels of the sparse model's own masks.
        seen: version of these masks.
        checked: whether the method's demands have been looked at.
    """

    network: Network
    trial: Trial = field(default_factory=Trial)
    micro: int = 0
    costs: tuple[tuple[dict[str, float], dict[str, float]], ...] = ()
    live: Masks = field(default_factory=dict[str, Tensor])
    seen: int = -1
    checked: bool = False


_SESSIONS: weakref.WeakKeyDictionary[SparseModel, Session] = weakref.WeakKeyDictionary()


def session_of(net: SparseModel, build: Callable[[SparseModel], Network]) -> Session:
    """Return the session of a sparse model, begun when it is first asked for."""
    if net not in _SESSIONS:
        _SESSIONS[net] = Session(build(net))
    return _SESSIONS[net]


def runs_small(net: SparseModel, execution: Execution) -> bool:
    """Tell whether a network runs small; ``auto`` answers once its trial has decided."""
    if execution == "auto":
        return bool(net.memory["execution"]["small"]) if "execution" in net.memory else False
    return execution == "compact"


def run(
    net: SparseModel,
    session: Session,
    objective: Objective,
    masks: Masks,
    *,
    execution: Execution,
    statistics: bool = True,
) -> Tensor:
    """Return the loss of the network of these masks, run as ``execution`` says.

    Args:
        net: the sparse model, which remembers the choice of ``auto``.
        session: its session.
        objective: weights -> loss.
        masks: by unit.
        execution: ``compact``: small; ``masked``: at full size; ``auto``: the faster, timed on the first calls.
        statistics: whether running statistics learn.
    """

    def way(small: bool) -> Tensor:
        return session.network.run(objective, masks, small=small, statistics=statistics)

    if execution != "auto" or "execution" in net.memory:
        return way(runs_small(net, execution))
    loss = session.trial.run(way, device=next(iter(net.params.values())).device)
    if session.trial.choice is not None:
        net.memory["execution"] = {"small": torch.tensor(session.trial.choice)}
    return loss


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
