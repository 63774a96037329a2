"""Masks sampled from learned probabilities of channels or weights (Zhou et al. 2021).

``s`` holds the probabilities, and K = density * n bounds their sum: s is projected on ``{0 <= s <= 1, sum s <= K}``
after each step. ``vr_pge.py`` and ``probmask.py`` define how s is learned; this module draws the masks and chooses the
final one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from sparsebench.execution.base import Masks
from sparsebench.execution.runtime import cpu, module_of, store
from sparsebench.functional.estimate import bernoulli
from sparsebench.functional.schedule import constant, cubic
from sparsebench.functional.select import keep_top_each
from sparsebench.methods.arguments import require_learned
from sparsebench.methods.base import Clock, Probe
from sparsebench.methods.own_networks import OwnNetworks
from sparsebench.methods.probabilities import fill_empty, most_probable, project_together_
from sparsebench.runs.messages import check_choice
from sparsebench.sparse.model import SparseModel

FinalMask = Literal["topk", "bernoulli", "best_of_n", "random", "uniform"]
Phase = Literal["drawing", "comparing", "compared", "fixed"]

SCHEDULES = {"constant": constant, "cubic": cubic}
OPTIMIZERS = {"adam": Adam, "sgd": SGD}


@dataclass(frozen=True, kw_only=True)
class DrawnMasks(OwnNetworks):
    """Common base of VR-PGE and ProbMask: scores with a separate optimizer, a budget, and a final mask.

    Args:
        density: K / n, the expected share of live channels or active weights.
        score_lr: learning rate of s, which follows the same schedule as the weights' learning rate.
        score_optimizer: ``adam`` or ``sgd``.
        clip_norm: bound of the gradient's norm; None for no bound.
        clip: ``separate``: the bound holds for the scores alone; ``joint``: for scores and weights together.
        schedule: schedule of K: ``constant``, s starts at the density; ``cubic``, s starts at 1 and K falls between two
            moments.
        falls_from: first of these moments, as a fraction of training.
        falls_until: the second.
        constraint: ``leq``: sum s <= K; ``eq``: sum s = K.
        fix_at: moment, as a fraction of training, at which the mask is fixed, so that only weights are trained
            afterwards; None fixes it at the end.
        final_mask: ``topk``: the K most probable entries with a probability above 0; ``bernoulli``: a draw;
            ``best_of_n``: the one of ``best_of`` draws with the smallest loss on the batch at ``fix_at``; ``random``: K
            random entries, regardless of s; ``uniform``: the first entries of each layer, an equal share (with
            ``fix_at=0`` a narrow dense network).
        best_of: number of draws of ``best_of_n``.
    """

    zeros: ClassVar[str] = "computed"
    exceptions: ClassVar[Mapping[str, str]] = {
        "growth": "weights outside a draw are kept, and return unchanged in another draw",
    }

    density: float = 0.5
    score_lr: float = 0.012
    score_optimizer: str = "adam"
    clip_norm: float | None = 3.0
    clip: str = "separate"
    schedule: str = "constant"
    falls_from: float = 0.16
    falls_until: float = 0.6
    constraint: str = "leq"
    fix_at: float | None = 0.88
    final_mask: FinalMask = "topk"
    best_of: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise ValueError(f"density {self.density:g} is impossible: choose a sparsity of at least 0 and below 1")
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("score_optimizer", self.score_optimizer, OPTIMIZERS)
        check_choice("constraint", self.constraint, ("leq", "eq"))
        check_choice("clip", self.clip, ("separate", "joint"))
        check_choice("final_mask", self.final_mask, get_args(FinalMask))
        if not 0 <= (self.fix_at or 0) <= 1:
            raise ValueError(f"fix_at={self.fix_at:g} must be in [0, 1], a share of training, or null")
        if self.final_mask == "best_of_n" and (not self.fix_at or self.best_of < 1):
            raise ValueError(
                "final_mask=best_of_n needs best_of of 1 or more, and fix_at above 0, since it runs a batch"
            )
        if not 0 <= self.falls_from < self.falls_until <= 1:
            raise ValueError(f"K falls from {self.falls_from:g} until {self.falls_until:g}: 0 <= from < until <= 1")
        if self.score_lr < 0 or (self.clip_norm is not None and self.clip_norm <= 0):
            raise ValueError(f"score_lr={self.score_lr:g}, clip_norm={self.clip_norm}: score_lr >= 0, clip_norm > 0")

    def targets(self, clock: Clock) -> dict[str, float]:
        """Return the expected share of channels or weights that training leaves out."""
        return {**super().targets(clock), "sparsity_target": 1 - self.density}

    def learned(self, net: SparseModel) -> dict[str, Tensor]:
        """Return the initial probabilities of each unit: a layer's channels, or its weights.

        Raises:
            ValueError: channels of this network cannot be removed, or the budget is too small.
        """
        units = self.network(net).units
        first = self.density if self.schedule == "constant" else 1.0
        scores = {name: torch.full(_shape(size), first) for name, size in units.items()}
        self.count(scores)
        return scores

    def learned_optimizer(self, group: dict[str, Any]) -> Optimizer | None:
        """Return the scores' own optimizer."""
        return OPTIMIZERS[self.score_optimizer]([group], lr=self.score_lr)

    def count(self, scores: Mapping[str, Tensor]) -> int:
        """Return K, a whole number that allows at least one active entry per layer.

        Raises:
            ValueError: there are more layers than active entries.
        """
        total = sum(value.numel() for value in scores.values())
        kept = round(self.density * total)
        if kept < len(scores):
            raise ValueError(
                f"density {self.density:g} keeps {kept} of {total}, fewer than one in each of {len(scores)} layers: "
                f"choose a sparsity of at most {1 - len(scores) / total:.4f}"
            )
        return kept

    # -- draws ------------------------------------------------------------------------------------------------------

    def draw(self, net: SparseModel, *path: int | str) -> Masks:
        """Draw a mask for each unit: a function of scores, seed and path alone."""
        masks: Masks = {}
        for name, score in net.learned.items():
            masks[name] = bernoulli(cpu(score), net.generator("mask", *path, name))
        return masks

    def repair(self, net: SparseModel, masks: Masks) -> Masks:
        """Activate the most probable entry of each layer that a draw left empty."""
        return fill_empty(masks, net.learned)

    # -- one step ------------------------------------------------------------------------------------------------------

    def start(self, net: SparseModel, probe: Probe) -> None:
        """Fix the mask if it is fixed from the first step on."""
        del probe
        require_learned(self, net)
        if self.fix_at == 0:
            self.fix(net, self.choose(net), None)

    def before_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Clip the gradients of weights and scores."""
        if self.clip_norm is not None and not self.fixed(net):
            every = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(every if self.clip == "joint" else net.learned.values(), self.clip_norm)

    def after_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Project the scores on the budget, and fix the mask when due."""
        if self.fixed(net):
            return
        net.memory["time"] = {"step": torch.tensor(clock.step), "progress": torch.tensor(clock.progress).double()}
        self.runtime(net).micro = 0
        self.project(net, clock)
        if self.fix_at is not None and clock.step >= round(self.fix_at * clock.total):
            if self.final_mask != "best_of_n":
                self.fix(net, self.choose(net), optimizer)
            elif self.phase(net) == "compared":
                self.fix(net, net.memory.pop("best"), optimizer)
            else:
                net.memory["wanted"] = {"best": torch.ones(())}

    def project(self, net: SparseModel, clock: Clock) -> None:
        """Project all scores together on the current budget."""
        total = sum(score.numel() for score in net.learned.values())
        share, time = self.count(net.learned) / total, clock.between(self.falls_from, self.falls_until)
        budget = total * SCHEDULES[self.schedule](share if self.schedule == "constant" else 1.0, share, time)
        project_together_(net.learned, budget, equality=self.constraint == "eq")

    # -- the final mask -----------------------------------------------------------------------------------------------

    def phase(self, net: SparseModel) -> Phase:
        """Return the phase of training, which checkpoints restore from the stored memory.

        ``drawing``: each step draws masks. At ``fix_at``, ``best_of_n`` passes through ``comparing``, in which the next
            batch is run with several draws, and ``compared``, in which the best draw is known and is fixed with this
            step. ``fixed``: the final mask is in use.
        """
        if "kept" in net.memory:
            return "fixed"
        return "compared" if "best" in net.memory else "comparing" if "wanted" in net.memory else "drawing"

    def fixed(self, net: SparseModel) -> bool:
        """Return True once the final mask is fixed."""
        return self.phase(net) == "fixed"

    def choose(self, net: SparseModel) -> Masks:
        """Choose the final mask, with at least one active entry in each layer."""
        scores = {name: cpu(score) for name, score in net.learned.items()}
        if self.final_mask == "uniform":
            counts = {name: max(1, round(self.density * score.numel())) for name, score in scores.items()}
            return keep_top_each({name: torch.zeros_like(score) for name, score in scores.items()}, counts)
        if self.final_mask == "bernoulli":
            return self.repair(net, self.draw(net, "final"))
        if self.final_mask == "random":
            scores = {n: 1 + torch.rand(s.shape, generator=net.generator("random", n)) for n, s in scores.items()}
        return self.top(scores)

    def top(self, scores: Mapping[str, Tensor], kept: int | None = None) -> Masks:
        """Keep the K largest scores overall, including the largest of each layer.

        If the scores have fallen below the budget, fewer than K are kept; see ``most_probable``.
        """
        return most_probable(scores, self.count(scores) if kept is None else kept)

    def fix(self, net: SparseModel, masks: Masks, optimizer: Optimizer | None) -> None:
        """Fix the masks: from now on, weights outside them are zero and stay zero."""
        net.memory["kept"] = dict(masks)
        kept = self.network(net).weight_masks(masks)
        net.set_masks({name: mask for name, mask in kept.items() if name in net.params}, optimizer)

    def shown(self, net: SparseModel) -> Masks:
        """Return the masks for evaluation: the final ones, or the likeliest within the current budget."""
        if self.fixed(net):
            return self.runtime(net).once(net.memory["kept"], net.version)
        scores = {name: cpu(score) for name, score in net.learned.items()}
        return self.top(scores, max(self.count(scores), round(sum(float(s.sum()) for s in scores.values()))))

    def view(self, net: SparseModel) -> dict[str, Tensor]:
        """Return the full-size weights under the masks for evaluation."""
        return self.network(net).view(self.shown(net))

    @torch.no_grad()
    def finish(self, net: SparseModel) -> None:
        """Fix the masks if necessary, and store zeros for everything that belongs to dead units, norms included."""
        if not self.fixed(net):
            self.fix(net, self.top(net.learned) if self.final_mask == "best_of_n" else self.choose(net), None)
        net.project_()
        store(module_of(net), self.view(net))


def _shape(size: int | tuple[int, ...]) -> tuple[int, ...]:
    return (size,) if isinstance(size, int) else size
