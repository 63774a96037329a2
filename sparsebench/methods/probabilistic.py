"""Masks that are drawn: every channel, or weight, lives with a probability that is learned (Zhou et al. 2021).

``s`` holds the probabilities, K = density * n bounds their sum. VR-PGE learns s from the losses of two sampled networks,
without a gradient through the masks, so the sampled networks may be as small as their masks say. ProbMask relaxes the
masks and differentiates through them. Both project s on ``{0 <= s <= 1, sum s <= K}`` after each step.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from sparsebench.cost.passes import DENSE, SPARSE, Passes
from sparsebench.execution import ChannelNetwork, Trial, WeightNetwork
from sparsebench.functional.estimate import Form, bernoulli, policy_gradient
from sparsebench.functional.prox import project_budget
from sparsebench.functional.schedule import constant, cubic
from sparsebench.functional.select import keep_top_each, keep_top_global
from sparsebench.methods.base import Clock, Method, Objective, Probe
from sparsebench.sparse.model import SparseModel

Masks = dict[str, Tensor]
Network = ChannelNetwork | WeightNetwork
FinalMask = Literal["topk", "bernoulli", "best_of_n", "random", "uniform"]
Execution = Literal["compact", "masked", "auto"]


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


SCHEDULES = {"constant": constant, "cubic": cubic}
OPTIMIZERS = {"adam": Adam, "sgd": SGD}


@dataclass(frozen=True, kw_only=True)
class Probabilistic(Method):
    """What VR-PGE and ProbMask share: scores with an optimizer of their own, a budget, and a final mask.

    Args:
        density: K / n, the share of channels or weights that live, in expectation.
        score_lr: learning rate of s, under the schedule of the weights'.
        score_optimizer: ``adam`` or ``sgd``.
        clip_norm: bound of the gradient's norm; None for none.
        clip: ``separate``: the bound holds for the scores alone; ``joint``: for scores and weights together.
        schedule: of K: ``constant``, s starts at the density; ``cubic``, s starts at 1 and K falls between two moments.
        falls_from: first of these moments, as a fraction of training.
        falls_until: the second.
        constraint: ``leq``: sum s <= K; ``eq``: sum s = K.
        fix_at: moment, as a fraction of training, from which the final mask stays and only weights are trained; None
            fixes it at the end.
        final_mask: ``topk``: the K most probable; ``bernoulli``: a draw; ``best_of_n``: of ``best_of`` draws the one
            with the smallest loss on the batch at ``fix_at``; ``random``: K of all, whatever s; ``uniform``: the first
            of each layer, an equal share (with ``fix_at=0`` a narrow dense network).
        best_of: draws of ``best_of_n``.
    """

    zeros: ClassVar[str] = "computed"
    exceptions: ClassVar[Mapping[str, str]] = {
        "growth": "what a draw leaves out keeps its weights, and returns with them in another draw",
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
        _one_of("schedule", self.schedule, SCHEDULES)
        _one_of("score_optimizer", self.score_optimizer, OPTIMIZERS)
        _one_of("constraint", self.constraint, ("leq", "eq"))
        _one_of("clip", self.clip, ("separate", "joint"))
        _one_of("final_mask", self.final_mask, get_args(FinalMask))
        if self.fix_at is not None and not 0 <= self.fix_at <= 1:
            raise ValueError(f"fix_at={self.fix_at:g} must be in [0, 1], a share of training, or null")
        if self.final_mask == "best_of_n" and (not self.fix_at or self.best_of < 1):
            raise ValueError("final_mask=best_of_n needs best_of of 1 or more, and fix_at above 0: it looks at a batch")
        if not 0 <= self.falls_from < self.falls_until <= 1:
            raise ValueError(f"K falls from {self.falls_from:g} until {self.falls_until:g}: 0 <= from < until <= 1")
        if self.score_lr < 0 or (self.clip_norm is not None and self.clip_norm <= 0):
            raise ValueError(f"score_lr={self.score_lr:g}, clip_norm={self.clip_norm}: score_lr >= 0, clip_norm > 0")

    # -- what is learned --------------------------------------------------------------------------------------------

    def build(self, net: SparseModel) -> Network:
        """Build the network that runs with masks."""
        return WeightNetwork(_module(net), net.params)

    def network(self, net: SparseModel) -> Network:
        """Return the network that runs with masks; built once."""
        return self.session(net).network

    def session(self, net: SparseModel) -> Session:
        """Return what lives as long as the process."""
        if net not in _SESSIONS:
            _SESSIONS[net] = Session(self.build(net))
        return _SESSIONS[net]

    def learned(self, net: SparseModel) -> dict[str, Tensor]:
        """Return the first probabilities of each unit: a layer's channels, or its weights.

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
        """Return K, a whole number that leaves one live entry in each layer.

        Raises:
            ValueError: there are more layers than that.
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
            masks[name] = bernoulli(_cpu(score), net.generator("mask", *path, name))
        return masks

    def next_draw(self, net: SparseModel) -> tuple[int, int]:
        """Return the numbers of the step and of the micro-batch in it: the path of its draws."""
        session = self.session(net)
        session.micro += 1
        return int(net.memory["time"]["step"]) if "time" in net.memory else 0, session.micro - 1

    def repair(self, net: SparseModel, masks: Masks) -> Masks:
        """Switch the most probable entry on where a draw has left a layer empty."""
        for name, mask in masks.items():
            if not bool(mask.any()):
                masks = {**masks, name: keep_top_each({name: _cpu(net.learned[name])}, {name: 1})[name]}
        return masks

    # -- when -------------------------------------------------------------------------------------------------------

    def start(self, net: SparseModel, probe: Probe) -> None:
        """Fix the mask, if it is fixed from the first step on."""
        del probe
        if self.fix_at == 0:
            self.fix(net, self.choose(net), None)

    def before_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Clip the gradients."""
        if self.clip_norm is not None and not self.fixed(net):
            every = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(every if self.clip == "joint" else net.learned.values(), self.clip_norm)

    def after_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Project the scores on the budget; fix the mask at its time."""
        if self.fixed(net):
            return
        net.memory["time"] = {"step": torch.tensor(clock.step), "progress": torch.tensor(clock.progress).double()}
        self.session(net).micro = 0
        self.project(net, clock)
        if self.fix_at is not None and clock.step >= round(self.fix_at * clock.total):
            if self.final_mask != "best_of_n":
                self.fix(net, self.choose(net), optimizer)
            elif "best" in net.memory:
                self.fix(net, net.memory.pop("best"), optimizer)
            else:
                net.memory["wanted"] = {"best": torch.ones(())}

    @torch.no_grad()
    def project(self, net: SparseModel, clock: Clock) -> None:
        """Project all scores together on the budget of the moment."""
        total = sum(score.numel() for score in net.learned.values())
        time = clock.between(self.falls_from, self.falls_until)
        share = self.count(net.learned) / total
        budget = total * SCHEDULES[self.schedule](share if self.schedule == "constant" else 1.0, share, time)
        flat = torch.cat([score.reshape(-1) for score in net.learned.values()])
        parts = project_budget(flat, budget, equality=self.constraint == "eq").split(
            [score.numel() for score in net.learned.values()]
        )
        for score, part in zip(net.learned.values(), parts, strict=True):
            score.copy_(part.reshape(score.shape))

    # -- the final mask -----------------------------------------------------------------------------------------------

    def fixed(self, net: SparseModel) -> bool:
        """Tell whether the final mask is fixed."""
        return "kept" in net.memory

    def choose(self, net: SparseModel) -> Masks:
        """Choose the final mask, with one live entry at least in each layer."""
        scores = {name: _cpu(score) for name, score in net.learned.items()}
        if self.final_mask == "uniform":
            counts = {name: max(1, round(self.density * score.numel())) for name, score in scores.items()}
            return keep_top_each({name: torch.zeros_like(score) for name, score in scores.items()}, counts)
        if self.final_mask == "bernoulli":
            return self.repair(net, self.draw(net, "final"))
        if self.final_mask == "random":
            scores = {n: torch.rand(s.shape, generator=net.generator("random", n)) for n, s in scores.items()}
        return self.top(scores)

    def top(self, scores: Mapping[str, Tensor]) -> Masks:
        """Keep the K largest of all scores, the largest of each layer among them."""
        first = {name: keep_top_each({name: score}, {name: 1})[name] for name, score in scores.items()}
        sure = {name: score.masked_fill(first[name], torch.inf) for name, score in scores.items()}
        return keep_top_global(sure, self.count(scores))

    def fix(self, net: SparseModel, masks: Masks, optimizer: Optimizer | None) -> None:
        """Fix the masks: from now on weights outside are zero, and stay so."""
        net.memory["kept"] = masks
        net.set_masks(self.network(net).weight_masks(masks), optimizer)

    def shown(self, net: SparseModel) -> Masks:
        """Return the masks that evaluation sees: the final ones, or those that would be final now."""
        if self.fixed(net):
            return {name: mask.cpu() for name, mask in net.memory["kept"].items()}
        return self.top({name: _cpu(score) for name, score in net.learned.items()})

    def view(self, net: SparseModel) -> dict[str, Tensor]:
        """Show the network of these masks, at full size."""
        return self.network(net).masked(self.shown(net)).tensors

    @torch.no_grad()
    def finish(self, net: SparseModel) -> None:
        """Fix the masks, if they are not yet; store zeros for all that belongs to what is dead, norms included."""
        if not self.fixed(net):
            self.fix(net, self.top(net.learned) if self.final_mask == "best_of_n" else self.choose(net), None)
        net.project_()
        stored = dict(_module(net).named_parameters())
        for name, tensor in self.view(net).items():
            if name in stored:
                stored[name].copy_(tensor)


@dataclass(frozen=True, kw_only=True)
class VRPGE(Probabilistic):
    """Learn which channels live from two sampled networks and the difference of their losses (Zhou et al. 2021).

    Two masks m0, m1 are drawn for the same batch. The weights learn from the first network by the chain rule; the
    scores get ``(L0 - L1) (m0 - m1) / (2 h) * h^exponent`` with ``h = s (1 - s)``. Neither needs what a mask leaves out,
    so both networks run as the small dense networks that they are.

    Args:
        level: ``filter``: a score for each output channel of each prunable convolution, its mask acting after the norm;
            ``weight``: for each prunable weight.
        estimator: ``two_sided``, ``one_sided`` or ``plain``.
        exponent: of the preconditioner; 0 is the plain unbiased gradient.
        backward_samples: 1: weights learn from the first network, the second is run forward only and leaves no trace in
            running statistics; 2: from the mean of both.
        residual: masks around residual sums: ``union``, ``tied`` or ``inner`` (see ``execution.ChannelNetwork``).
        execution: ``compact``: small networks; ``masked``: at full size; ``auto``: the faster, timed on first steps.
        multiple: widths of small networks are rounded up to a multiple of this where that adds at most an eighth.
        shuffle: control: give the loss difference a random sign, so that scores learn nothing.
    """

    paper: ClassVar[str] = "vr_pge"

    level: str = "filter"
    estimator: Form = "two_sided"
    exponent: float = 0.5
    backward_samples: int = 1
    residual: str = "union"
    execution: Execution = "compact"
    multiple: int = 1
    shuffle: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_of("level", self.level, ("filter", "weight"))
        _one_of("estimator", self.estimator, get_args(Form))
        _one_of("execution", self.execution, get_args(Execution))
        _one_of("backward_samples", self.backward_samples, (1, 2))
        if not 0 <= self.exponent <= 1:
            raise ValueError(f"exponent={self.exponent:g} must be in [0, 1]: 0 is unbiased, 0.5 the published choice")

    def build(self, net: SparseModel) -> Network:
        """Build the network whose channels, or weights, have masks."""
        if self.level == "weight":
            return super().build(net)
        residual: Any = self.residual
        return ChannelNetwork.of(_module(net), net.params, multiple=self.multiple, residual=residual)

    # -- one step -----------------------------------------------------------------------------------------------------

    def loss(self, net: SparseModel, objective: Objective) -> Tensor:
        """Return the loss of a pair of draws, or of the final network once it is fixed."""
        if self.fixed(net):
            return self._run(net, objective, self.shown(net))
        path = self.next_draw(net)
        if "wanted" in net.memory:
            self._compare(net, objective)
        return self.pair(net, objective, self.draw(net, *path, 0), self.draw(net, *path, 1), path)

    def pair(
        self, net: SparseModel, objective: Objective, one: Masks, two: Masks, path: tuple[int, ...] = ()
    ) -> Tensor:
        """Return the loss whose gradient is the chain rule for the weights and the estimate for the scores.

        Args:
            net: scores and parameters.
            objective: weights -> loss of a batch.
            one: first draw.
            two: second draw.
            path: of the draws, for the sign of the shuffled control.
        """
        network = self.network(net)
        real = (self.repair(net, one), self.repair(net, two))
        loss_one = self._run(net, objective, real[0])
        if self.backward_samples == 1:
            with torch.no_grad():
                loss_two = self._run(net, objective, real[1], statistics=False)
            loss = loss_one
        else:
            loss_two = self._run(net, objective, real[1])
            loss = (loss_one + loss_two) / 2
        # of several micro-batches, the last stands for all in the ledger
        self.session(net).costs = tuple((network.shares(m), network.shares(m, executed=True)) for m in real)
        sign = 1.0
        if self.shuffle:
            sign = 2.0 * torch.randint(2, (), generator=net.generator("sign", *path)).item() - 1.0
        losses = (sign * loss_one.detach().float(), sign * loss_two.detach().float())
        for name, score in net.learned.items():
            gradient = policy_gradient(
                score, one[name].to(score.device), two[name].to(score.device), *losses, self.estimator, self.exponent
            )
            # the value stays, the gradient of the score is the estimate: accumulated, scaled and averaged as all others
            loss = loss + ((score - score.detach()) * gradient).sum()
        return loss

    def _run(self, net: SparseModel, objective: Objective, masks: Masks, *, statistics: bool = True) -> Tensor:
        network = self.network(net)

        def run(small: bool) -> Tensor:
            return network.run(objective, masks, small=small, statistics=statistics)

        if self.level == "weight" or self.execution != "auto":
            return run(self.execution == "compact")
        if "execution" in net.memory:
            return run(bool(net.memory["execution"]["small"]))
        trial = self.session(net).trial
        loss = trial.run(run, device=next(iter(net.params.values())).device)
        if trial.choice is not None:
            net.memory["execution"] = {"small": torch.tensor(trial.choice)}
        return loss

    @torch.no_grad()
    def _compare(self, net: SparseModel, objective: Objective) -> None:
        """Find the best of several draws on this batch, over all ranks."""
        draws = [self.repair(net, self.draw(net, "best", index)) for index in range(self.best_of)]
        losses = torch.stack([self._run(net, objective, masks, statistics=False).float() for masks in draws])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(losses)
        net.memory["best"] = draws[int(losses.argmin())]
        del net.memory["wanted"]

    # -- cost -----------------------------------------------------------------------------------------------------------

    def passes(self, net: SparseModel, clock: Clock) -> Passes:
        """Two forward passes, and the backward passes of one network or of both."""
        if self.fixed(net):
            return SPARSE
        costs = self.session(net).costs
        if not costs:  # nothing is drawn yet: the expectation
            scores = {name: _cpu(score).double() for name, score in net.learned.items()}
            expected = self.network(net).shares(scores)
            return self._passes(expected, expected)
        return self._passes(costs[0][0], costs[1][0])

    def executed(self, net: SparseModel, clock: Clock) -> Passes | None:
        """Say what the small networks multiply; None where the network runs at full size."""
        small = self.execution == "compact"
        if self.execution == "auto" and "execution" in net.memory:
            small = bool(net.memory["execution"]["small"])
        if self.level == "weight" or not small:
            return None
        if self.fixed(net):
            shares = self.network(net).shares(self.shown(net), executed=True)
            return Passes((shares,), (shares,), (shares,))
        costs = self.session(net).costs
        return self._passes(costs[0][1], costs[1][1]) if costs else None

    def _passes(self, one: Mapping[str, float], two: Mapping[str, float]) -> Passes:
        backward = (one,) if self.backward_samples == 1 else (one, two)
        return Passes((one, two), backward, backward)


@dataclass(frozen=True, kw_only=True)
class ProbMask(Probabilistic):
    """Learn which weights live by the chain rule through relaxed masks (Zhou et al. 2021).

    A relaxed mask is ``sigmoid(T (logit s + logistic noise))``. T, an inverse temperature, rises from 1 to
    ``1 / sharpest`` over training, so that masks harden. Every pass is dense.

    Args:
        samples: draws whose losses are averaged in a step.
        sharpest: the last temperature.
    """

    paper: ClassVar[str] = "probmask"
    budget_holds: ClassVar[str] = "end"

    score_lr: float = 0.006
    schedule: str = "cubic"
    samples: int = 2
    sharpest: float = 0.03

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 1 or not 0 < self.sharpest <= 1 or self.final_mask == "best_of_n":
            raise ValueError(
                f"samples={self.samples}, sharpest={self.sharpest:g}, final_mask={self.final_mask}: "
                f"samples >= 1, sharpest in (0, 1] and any final_mask but best_of_n are needed"
            )

    def loss(self, net: SparseModel, objective: Objective) -> Tensor:
        """Return the mean loss over draws of relaxed masks."""
        network = self.network(net)
        if self.fixed(net):
            return network.run(objective, net.memory["kept"])
        path = self.next_draw(net)
        losses = [network.run(objective, self.relaxed(net, *path, index)) for index in range(self.samples)]
        return torch.stack(losses).mean()

    def relaxed(self, net: SparseModel, *path: int | str) -> Masks:
        """Draw relaxed masks, differentiable with respect to the scores."""
        progress = float(net.memory["time"]["progress"]) if "time" in net.memory else 0.0
        inverse = 1.0 / ((1.0 - self.sharpest) * (1.0 - progress) + self.sharpest)
        masks: Masks = {}
        for name, score in net.learned.items():
            uniform = torch.rand(score.shape, generator=net.generator("noise", *path, name)).clamp(1e-6, 1 - 1e-6)
            noise = torch.logit(uniform).to(score.device)
            masks[name] = torch.sigmoid(inverse * (_log_odds(score) + noise))
        return masks

    def passes(self, net: SparseModel, clock: Clock) -> Passes:
        """Every pass of every sample is dense, until the masks are fixed."""
        if self.fixed(net):
            return SPARSE
        return Passes(DENSE.forward * self.samples, DENSE.input * self.samples, DENSE.weight * self.samples)


_SESSIONS: weakref.WeakKeyDictionary[SparseModel, Session] = weakref.WeakKeyDictionary()


def _module(net: SparseModel) -> torch.nn.Module:
    if net.module is None:
        raise ValueError("drawn masks need the whole network: build the SparseModel with SparseModel.of(module)")
    return net.module


def _shape(size: int | tuple[int, ...]) -> tuple[int, ...]:
    return (size,) if isinstance(size, int) else size


def _cpu(score: Tensor) -> Tensor:
    return score.detach().cpu()


def _log_odds(score: Tensor, eps: float = 1e-6) -> Tensor:
    """Return ln(s / (1 - s)), finite at 0 and 1, where its slope stays finite too."""
    return torch.log(score + eps) - torch.log(1.0 - score + eps)


def _one_of(name: str, value: Any, allowed: Any) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(str(choice) for choice in allowed)}")
