"""Pruning at initialisation: score the untrained weights, keep the best, and train only these.

The methods differ in their score. All rank the weights of all layers together, as their papers do, unless a
distribution sets the number that stays in each layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsebench.functional import score
from sparsebench.functional.counts import Budget, global_budget
from sparsebench.functional.distribution import erk
from sparsebench.functional.initial import DRAWN, draw_
from sparsebench.functional.select import keep_top
from sparsebench.methods.base import Distribution, Masked, Probe
from sparsebench.methods.probe import ScoreMode, check_sample
from sparsebench.methods.static import draw_scores
from sparsebench.runs.messages import check_choice
from sparsebench.sparse.model import SparseModel
from sparsebench.sparse.tensors import whole_numbers


@dataclass(frozen=True, kw_only=True)
class PrunedAtStart(Masked):
    """Keep the weights with the largest scores before the first step, permanently.

    Scores are raw: a constant factor does not change a ranking. Scoring runs in full precision, on the weights that are
    then trained, and on the same samples on every rank.

    Args:
        floor: smallest number of weights that every layer keeps, its best ones, at the expense of other layers; 0
            allows a global ranking to remove whole layers.
        shuffle: a control: permute the mask within each layer, so that only the layers' counts come from the scores
            (Frankle et al. 2021).
        reinit: a control: redraw the weights and keep the mask, so that the mask is independent of the weights that are
            trained (Frankle et al. 2021).
    """

    budget_holds: ClassVar[str] = "always"

    distribution: Distribution = global_budget
    floor: int = 0
    shuffle: bool = False
    reinit: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.floor < 0:
            raise ValueError(f"floor {self.floor} is impossible: choose how many weights a layer keeps, 0 or more")

    def start(self, net: SparseModel, probe: Probe) -> None:
        """Choose the masks before the first step.

        Raises:
            ValueError: no probe is given.
        """
        if probe is None:  # pyright: ignore[reportUnnecessaryComparison]
            raise ValueError(
                f"{type(self).__name__} may score data before the first step and was given no probe: train it with "
                f"Sparsity(...), or in your own loop with methods.Loop(..., sample=[(inputs, labels), ...])"
            )
        masks = self.choose(net, probe)
        if self.shuffle:
            counts = whole_numbers({name: mask.count_nonzero() for name, mask in masks.items()})
            masks = self.pattern.keep(draw_scores(net, "shuffle"), counts)
        if self.reinit:
            redraw_(net)
        net.set_masks(masks)

    def choose(self, net: SparseModel, probe: Probe) -> dict[str, Tensor]:
        """Return masks of the largest scores that use the budget exactly."""
        kept = self.budget(net)
        return self.pattern.keep(protect(self.scores(net, probe), self.floor, kept), kept)

    def scores(self, net: SparseModel, probe: Probe) -> dict[str, Tensor]:
        """Return a score for each weight; the largest stay."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Random(PrunedAtStart):
    """Keep random weights: the baseline that every other score has to beat.

    With a budget per layer this is ``Static``; with a global one the counts of the layers are random too.
    """

    paper: ClassVar[str] = "synflow"

    distribution: Distribution = erk

    def scores(self, net: SparseModel, probe: Probe) -> dict[str, Tensor]:
        """Draw a uniform number for each weight, seeded by its layer's name."""
        del probe
        return draw_scores(net, "start")


@dataclass(frozen=True, kw_only=True)
class MagnitudeInit(PrunedAtStart):
    """Keep the initial weights of largest magnitude.

    A global ranking compares the scales of the layers' initial distributions: layers with few inputs keep more.
    """

    paper: ClassVar[str] = "synflow"

    def scores(self, net: SparseModel, probe: Probe) -> dict[str, Tensor]:
        """Score each weight by |w|."""
        del probe
        return score.magnitude(net.params)


@dataclass(frozen=True, kw_only=True)
class SNIP(PrunedAtStart):
    """Keep the weights to whose removal the loss is most sensitive (Lee, Ajanthan and Torr 2019).

    The sensitivity is the derivative of the loss by a mask that multiplies the weight: |dL/dm| at m = 1, which is
    |w dL/dw|.

    Args:
        batches: training batches over which the gradient is averaged, before the modulus.
        per_class: images of each class that are scored instead of these batches.
        images: the first training images, scored instead of these batches: at most a batch, or whole batches.
        scored_weights: ``trained``: the scored weights are then trained; or a law of ``functional.initial``, from which
            a second network is drawn for scoring alone, as in the published code.
        score_mode: ``eval``: norms by their running statistics, which at initialisation do nothing, as in the published
            code; ``train``: by those of the batch, as in the re-runs in PyTorch whose numbers are often quoted.
    """

    paper: ClassVar[str] = "snip"

    batches: int = 1
    per_class: int | None = None
    images: int | None = None
    score_mode: ScoreMode = "eval"
    scored_weights: str = "trained"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sample(self.batches, self.per_class, self.score_mode, self.images)
        check_choice("scored_weights", self.scored_weights, ("trained", *DRAWN))

    def scores(self, net: SparseModel, probe: Probe) -> dict[str, Tensor]:
        """Score each weight by |w g|."""
        objectives = probe.ask(self.batches, mode=self.score_mode, per_class=self.per_class, images=self.images)
        weights = net.params if self.scored_weights == "trained" else _draw(net, self.scored_weights)
        return score.snip(objectives, weights)


@dataclass(frozen=True, kw_only=True)
class GraSP(PrunedAtStart):
    """Keep the weights whose removal would weaken the gradient flow (Wang, Zhang and Grosse 2020).

    Removing a weight changes the squared gradient norm by -2 w (H g) to first order: weights with the largest w (H g)
    stay. The gradient g is taken over the whole sample; the Hessian-vector product is exact and accumulated part by
    part.

    Args:
        per_class: number of images per class in the sample.
        batches: number of ordinary training batches to use instead of that sample.
        score_mode: ``train``: norms use the statistics of each part of the sample, as in the published code; ``eval``:
            norms use their running statistics, which are the identity at initialisation. The two rankings differ.
        temperature: divides the logits, so that the softmax is nearly uniform.
    """

    paper: ClassVar[str] = "grasp"
    # Two evaluations: g costs one forward and one backward pass, H g costs two of each.
    start_passes: ClassVar[tuple[float, float]] = (1.5, 1.5)

    per_class: int = 10
    batches: int | None = None
    score_mode: ScoreMode = "train"
    temperature: float = 200.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sample(self.batches, self.per_class, self.score_mode)
        if self.temperature <= 0:
            raise ValueError(f"temperature {self.temperature:g} is impossible: choose a number above 0, such as 200")

    def scores(self, net: SparseModel, probe: Probe) -> dict[str, Tensor]:
        """Score each weight by w (H g)."""
        per_class = self.per_class if self.batches is None else None
        objectives = probe.ask(
            self.batches or 0, temperature=self.temperature, mode=self.score_mode, per_class=per_class
        )
        return score.grasp(objectives, net.params)


def _draw(net: SparseModel, law: str) -> dict[str, Tensor]:
    """Draw the sparse weights of a second network, equal on every rank."""
    drawn = {name: torch.empty(weight.shape) for name, weight in net.params.items()}
    return {
        name: draw_(weight, law, generator=net.generator("scored", name)).to(net.params[name])
        for name, weight in drawn.items()
    }


@torch.no_grad()
def redraw_(net: SparseModel) -> None:
    """Permute the initial weights within each layer: a new draw from the layer's distribution."""
    for name, weight in net.params.items():
        order = torch.randperm(weight.numel(), generator=net.generator("reinit", name)).to(weight.device)
        weight.copy_(weight.reshape(-1)[order].reshape(weight.shape))


def protect(scores: Mapping[str, Tensor], floor: int, kept: Budget) -> dict[str, Tensor]:
    """Raise the ``floor`` best scores of every layer above all others.

    Raises:
        ValueError: a global budget is too small for the floor.
    """
    if floor == 0:
        return dict(scores)
    least = {name: min(floor, s.numel()) for name, s in scores.items()}
    if isinstance(kept, int) and sum(least.values()) > kept:
        raise ValueError(
            f"floor {floor} needs {sum(least.values())} weights in {len(least)} layers, the sparsity leaves {kept}: "
            f"lower one of them"
        )
    return {name: s.masked_fill(keep_top(s, least[name]), math.inf) for name, s in scores.items()}
