"""The end of a cycle: one network from its particles, with fresh statistics, measured on validation data."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from sparsebench.analysis.barrier import barrier
from sparsebench.analysis.batch_norm import recalibrate_
from sparsebench.analysis.hessian import hessian_trace
from sparsebench.analysis.quality import predict, qualities
from sparsebench.data.loader import EvalLoader, TrainLoader
from sparsebench.fits.journal import records
from sparsebench.fits.state import State, write_json
from sparsebench.functional.average import mean
from sparsebench.functional.random import generator
from sparsebench.recipes.pruning import density_of
from sparsebench.sparse import digest

if TYPE_CHECKING:
    from sparsebench.fits.run import Run

_HESSIAN_IMAGES = 512


@dataclass(frozen=True, kw_only=True)
class Look:
    """What is done with the network of a cycle, and what is measured.

    Args:
        recalibrate: collect batch-norm statistics anew, by one pass over the training images.
        augment: whether the images of that pass are moved.
        barrier: inner points of the line between two networks at which the loss is measured; 0 for no barrier.
        hessian: random probes of the Hessian's trace; 0 for none.
    """

    recalibrate: bool = True
    augment: bool = False
    barrier: int = 1
    hessian: int = 0


LOOK = Look()
"""Fresh statistics, barriers at the midpoint, no Hessian."""


def merge(run: Run, name: str, members: Sequence[State], *, look: Look, **notes: Any) -> State:
    """Average networks that share their masks and measure the mean; noted as a cycle of the run.

    Parameters are averaged, buffers are not: with ``look.recalibrate`` statistics are collected anew, without it they
    are those of the first member.

    Args:
        run: the run.
        name: under which the state is saved.
        members: one or more.
        look: what to do and to measure.
        notes: facts to put on record.

    Raises:
        ValueError: members with different masks.
    """
    earlier = [cycle for cycle in run.cycles if cycle.facts["stage"].startswith(run.prefix)]
    previous = earlier[-1] if earlier else None
    state = run.memo(name, lambda: _merge(run, members, look, previous, {"stage": f"{run.prefix}{name}", **notes}))
    run.cycles.append(state)
    run.upto.append(len(run.fits))
    write_json(records(run), run.folder / "cycles.json")
    return state


def _merge(run: Run, members: Sequence[State], look: Look, previous: State | None, notes: Mapping[str, Any]) -> State:
    began = time.monotonic()
    if any(digest(member.masks) != digest(members[0].masks) for member in members):
        raise ValueError("networks with different masks have a denser mean: average only what shares its masks")
    eyes = Eyes(run, look)
    weights = eyes.settle(_mean(run, [member.weights for member in members]))
    facts = {**notes, "density": density_of(members[0].masks), "particles": len(members)}
    facts |= {f"val_{key}": value for key, value in eyes.qualities(weights).items()}
    if len(members) > 1 and eyes.validation is not None:
        each = [eyes.qualities(eyes.settle(member.weights)) for member in members]
        facts["val_accuracy_particles"] = [found["accuracy"] for found in each]
        facts |= eyes.barrier("particles", members[0].weights, members[1].weights, [each[0]["nll"], each[1]["nll"]])
        _warn(facts)
    if previous is not None and eyes.validation is not None:
        facts |= eyes.barrier("previous", previous.weights, weights, [previous.facts["val_nll"], facts["val_nll"]])
    if look.hessian:
        facts["hessian_trace"] = eyes.hessian(weights, members[0].masks)
    return State(weights, members[0].masks, {**facts, "look_seconds": time.monotonic() - began})


def _warn(facts: Mapping[str, Any]) -> None:
    """Say so when averaging has hurt: below some sparsity particles do not share a basin."""
    if facts["val_accuracy"] < min(facts["val_accuracy_particles"]) and rank_zero_only.rank == 0:
        mean, worst = facts["val_accuracy"], min(facts["val_accuracy_particles"])
        text = f"the mean of the particles is worse ({mean:.4f} on validation data) than all of them (from {worst:.4f})"
        print(f"sparsebench: {facts['stage']}: {text}", file=sys.stderr, flush=True)


def _mean(run: Run, states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    names = {name for name, _ in run.network().named_parameters(remove_duplicate=False)}
    averaged = mean({name: weights[name] for name in names} for weights in states)
    return {name: averaged.get(name, value) for name, value in states[0].items()}


class Eyes:
    """Look at networks of a run: each process for itself, in full precision, without a trainer.

    Args:
        run: network and data.
        look: what to measure, and how.
    """

    def __init__(self, run: Run, look: Look) -> None:
        self.run, self.look, self.device = run, look, run.device
        self.training, self.validation = run.data.training_sets()

    def module(self, weights: Mapping[str, Tensor]) -> Any:
        """Return a classifier with these weights on the device."""
        return self.run.load(weights).to(self.device)

    def settle(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights with statistics that fit them."""
        if not self.look.recalibrate:
            return dict(weights)
        module, size = self.module(weights), self.run.data.batch_size
        settings = {"order_seed": self.run.seed, "augment": self.look.augment, "device": self.device}
        loader = TrainLoader(self.training, batch_size=size, **settings)
        recalibrate_(module, some(loader, self.run.limits[0]))
        return {name: value.detach().cpu() for name, value in module.net.state_dict().items()}

    def qualities(self, weights: Mapping[str, Tensor]) -> dict[str, float]:
        """Return accuracy, likelihood and calibration error on validation data; nothing without such data."""
        if self.validation is None:
            return {}
        loader = EvalLoader(self.validation, batch_size=self.run.data.eval_batch_size, device=self.device)
        return qualities(*predict(self.module(weights), some(loader, self.run.limits[1])))

    def barrier(
        self, name: str, one: Mapping[str, Tensor], two: Mapping[str, Tensor], ends: Sequence[float]
    ) -> dict[str, float]:
        """Return the barrier of the validation loss between two networks, statistics collected anew at every point."""
        if not self.look.barrier:
            return {}
        loss, (first, last) = (lambda weights: self.qualities(self.settle(weights))["nll"]), ends
        return {f"barrier_{name}": barrier(loss, one, two, points=self.look.barrier, ends=(first, last))}

    def hessian(self, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> float:
        """Return the trace of the Hessian of the loss on some training images, norms in evaluation mode."""
        module, size = self.module(weights), min(_HESSIAN_IMAGES, len(self.training))
        loader = TrainLoader(
            self.training, batch_size=size, order_seed=self.run.seed, augment=False, device=self.device
        )
        images, labels = next(iter(loader))
        return hessian_trace(
            lambda: torch.nn.functional.cross_entropy(module(images).float(), labels),
            dict(module.net.named_parameters()),
            probes=self.look.hessian,
            generator=generator(self.run.seed, "hessian"),
            masks=masks,
        )


def some(loader: TrainLoader | EvalLoader, limit: int | float) -> Iterator[Any]:
    """Iterate over as many batches as the trainer would use, at least one."""
    whole = len(loader)
    return itertools.islice(iter(loader), max(1, min(whole, limit) if isinstance(limit, int) else int(whole * limit)))
