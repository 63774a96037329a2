"""The end of a cycle: average its particles, recalibrate the statistics, measure on validation data."""

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
from sparsebench.fits.evaluate import load
from sparsebench.fits.length import used_batches
from sparsebench.fits.state import State
from sparsebench.functional.average import mean
from sparsebench.functional.random import generator
from sparsebench.recipes.pruning import density_of
from sparsebench.sparse import digest

if TYPE_CHECKING:
    from sparsebench.engine import Classifier
    from sparsebench.fits.run import Run
    from sparsebench.fits.setup import Setup

_HESSIAN_IMAGES = 512


@dataclass(frozen=True, kw_only=True)
class CycleChecks:
    """Measurements, and recalibration, of the network at the end of a cycle.

    Args:
        recalibrate: recompute batch-norm statistics by one pass over the training images.
        augment: whether the images of that pass are augmented.
        barrier: number of inner points of the line between two networks at which the loss is measured; 0 for no
            barrier.
        hessian: number of random probes for the Hessian's trace; 0 for none.
    """

    recalibrate: bool = True
    augment: bool = False
    barrier: int = 1
    hessian: int = 0


CHECKS = CycleChecks()
"""Fresh statistics, barriers at the midpoint, no Hessian."""


def merge(run: Run, name: str, members: Sequence[State], *, look: CycleChecks, **notes: Any) -> State:
    """Average networks that share their masks and measure the mean; recorded as a cycle of the run.

    Parameters are averaged, buffers are not: with ``look.recalibrate`` batch-norm statistics are recomputed, otherwise
    they come from the first member.

    Args:
        run: the run.
        name: name under which the state is saved.
        members: states of one or more networks.
        look: recalibration and measurements.
        notes: further facts to record.

    Raises:
        ValueError: the members have different masks.
    """
    previous = run.journal.previous(run.stages.prefix)
    stage = run.stages.full_name(name)
    state = run.memo(name, lambda: _merge(run.setup, members, look, previous, {"stage": stage, **notes}))
    run.journal.note_cycle(state)
    return state


def conclude(run: Run, state: State) -> State:
    """Return the final state of a recipe, with the facts of all its fits and cycles together."""
    return run.journal.conclude(state, total_steps=run.setup.total_steps())


def _merge(
    setup: Setup, members: Sequence[State], look: CycleChecks, previous: State | None, notes: Mapping[str, Any]
) -> State:
    began = time.monotonic()
    if any(digest(member.masks) != digest(members[0].masks) for member in members):
        raise ValueError(
            "networks with different masks have a denser mean: average only networks that share their masks"
        )
    evaluator = Evaluator(setup, look)
    weights = evaluator.recalibrate(_mean(setup, [member.weights for member in members]))
    facts = {**notes, "density": density_of(members[0].masks), "particles": len(members)}
    facts |= {f"val_{key}": value for key, value in evaluator.qualities(weights).items()}
    if len(members) > 1 and evaluator.validation is not None:
        each = [evaluator.qualities(evaluator.recalibrate(member.weights)) for member in members]
        facts["val_accuracy_particles"] = [found["accuracy"] for found in each]
        facts |= evaluator.barrier(
            "particles", members[0].weights, members[1].weights, [each[0]["nll"], each[1]["nll"]]
        )
        _warn(facts)
    if previous is not None and evaluator.validation is not None:
        facts |= evaluator.barrier("previous", previous.weights, weights, [previous.facts["val_nll"], facts["val_nll"]])
    if look.hessian and evaluator.training is not None:
        facts["hessian_trace"] = evaluator.hessian(weights, members[0].masks)
    return State(weights, members[0].masks, {**facts, "look_seconds": time.monotonic() - began})


def _warn(facts: Mapping[str, Any]) -> None:
    """Warn when averaging has hurt: above a certain sparsity particles no longer share a basin."""
    if facts["val_accuracy"] < min(facts["val_accuracy_particles"]) and rank_zero_only.rank == 0:
        mean, worst = facts["val_accuracy"], min(facts["val_accuracy_particles"])
        text = f"the mean of the particles is worse ({mean:.4f} on validation data) than all of them (from {worst:.4f})"
        print(f"sparsebench: {facts['stage']}: {text}", file=sys.stderr, flush=True)


def _mean(setup: Setup, states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    averaged = mean({name: weights[name] for name in setup.parameters} for weights in states)
    return {name: averaged.get(name, value) for name, value in states[0].items()}


class Evaluator:
    """Measure networks between fits, in each process separately, in full precision, without a trainer.

    One network is built, into which all weights are loaded in turn.

    Args:
        setup: network and data; without images, statistics are kept and nothing is measured.
        checks: the measurements and their options.
    """

    def __init__(self, setup: Setup, checks: CycleChecks) -> None:
        numbers = setup.numbers()
        self.setup, self.checks, self.limits, self.device = setup, checks, numbers.limits, numbers.device
        self.training, self.validation = setup.training_sets()
        self._module: Classifier | None = None

    def module(self, weights: Mapping[str, Tensor]) -> Classifier:
        """Return the classifier with these weights, on the device, in evaluation mode."""
        module = self._module or load(self.setup, weights).to(self.device)
        module.net.load_state_dict(dict(weights))
        self._module = module
        return module.eval()

    def recalibrate(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights with batch-norm statistics recomputed for them."""
        if not self.checks.recalibrate or self.training is None:
            return dict(weights)
        module, size = self.module(weights), self.setup.data.batch_size
        settings = {"order_seed": self.setup.seed, "augment": self.checks.augment, "device": self.device}
        loader = TrainLoader(self.training, batch_size=size, **settings)
        recalibrate_(module, limited(loader, self.limits[0]))
        return {name: value.detach().to("cpu", copy=True) for name, value in module.net.state_dict().items()}

    def qualities(self, weights: Mapping[str, Tensor]) -> dict[str, float]:
        """Return accuracy, likelihood and calibration error on validation data, if there are any."""
        if self.validation is None:
            return {}
        loader = EvalLoader(self.validation, batch_size=self.setup.data.eval_batch_size, device=self.device)
        return qualities(*predict(self.module(weights), limited(loader, self.limits[1])))

    def barrier(
        self, name: str, one: Mapping[str, Tensor], two: Mapping[str, Tensor], ends: Sequence[float]
    ) -> dict[str, float]:
        """Return the validation-loss barrier between two networks, with statistics recomputed at every point."""
        if not self.checks.barrier:
            return {}
        loss, (first, last) = (lambda weights: self.qualities(self.recalibrate(weights))["nll"]), ends
        return {f"barrier_{name}": barrier(loss, one, two, points=self.checks.barrier, ends=(first, last))}

    def hessian(self, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> float:
        """Return the trace of the loss's Hessian on a few training images, norms in evaluation mode."""
        assert self.training is not None
        module, size = self.module(weights), min(_HESSIAN_IMAGES, len(self.training))
        settings = {"order_seed": self.setup.seed, "augment": False, "device": self.device}
        images, labels = next(iter(TrainLoader(self.training, batch_size=size, **settings)))
        return hessian_trace(
            lambda: torch.nn.functional.cross_entropy(module(images).float(), labels),
            dict(module.net.named_parameters()),
            probes=self.checks.hessian,
            generator=generator(self.setup.seed, "hessian"),
            masks=masks,
        )


def limited(loader: TrainLoader | EvalLoader, limit: int | float) -> Iterator[Any]:
    """Iterate over as many batches as the trainer would use, at least one."""
    return itertools.islice(iter(loader), max(1, used_batches(len(loader), limit)))
