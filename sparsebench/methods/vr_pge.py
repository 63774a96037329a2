"""VR-PGE: learn which channels or weights to keep (Zhou et al. 2021).

VR-PGE learns the probabilities from the losses of two sampled networks, without a gradient through the masks, so the
sampled networks can really be made as small as their masks. ProbMask relaxes the masks and differentiates through them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsebench.cost.passes import Passes
from sparsebench.execution import Backend, ChannelNetwork
from sparsebench.execution.backends import CHANNELS, ChannelExecution, Execution
from sparsebench.execution.base import Masks
from sparsebench.execution.runtime import cpu, module_of
from sparsebench.functional.estimate import Form, policy_gradient
from sparsebench.methods.base import Clock, Objective
from sparsebench.methods.sampled_masks import DrawnMasks
from sparsebench.runs.messages import check_choice
from sparsebench.sparse.model import SparseModel


@dataclass(frozen=True, kw_only=True)
class VRPGE(DrawnMasks):
    """Learn which channels to keep from two sampled networks and the difference of their losses (Zhou et al. 2021).

    Two masks m0, m1 are drawn for the same batch. The weights are trained by backpropagation through the first network;
    the gradient of the scores is ``(L0 - L1) (m0 - m1) / (2 h) * h^exponent`` with ``h = s (1 - s)``. Neither needs the
    channels outside a mask, so both networks run as small dense networks.

    Args:
        level: ``filter``: one score per output channel of each prunable convolution, whose mask acts after the norm;
            ``weight``: one score per prunable weight.
        estimator: ``two_sided``, ``one_sided`` or ``plain``.
        exponent: exponent of the preconditioner; 0 is the plain unbiased gradient.
        backward_samples: 1: weights learn from the first network; the second is run forward only, does not update
            running statistics, and is skipped when both draws are equal; 2: weights learn from the mean of both.
        residual: masks around residual sums: ``union``, ``tied`` or ``inner`` (see ``execution.ChannelNetwork``).
        execution: ``compact``: small networks; ``masked``: at full size; ``auto``: the faster of the two, timed in the
            first steps.
        multiple: widths of small layers are rounded up to a multiple of this (or of its half, its quarter, ...) if that
            adds at most an eighth; 1 disables rounding.
        sum_multiple: the same for the widths of residual sums.
        shuffle: a control: give the loss difference a random sign, so that scores learn nothing.
    """

    paper: ClassVar[str] = "vr_pge"

    level: str = "filter"
    estimator: Form = "two_sided"
    exponent: float = 0.5
    backward_samples: int = 1
    residual: str = "union"
    execution: ChannelExecution = "compact"
    multiple: int = 1
    sum_multiple: int = 16
    shuffle: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("level", self.level, ("filter", "weight"))
        check_choice("estimator", self.estimator, get_args(Form))
        check_choice("execution", self.execution, get_args(ChannelExecution))
        check_choice("backward_samples", self.backward_samples, (1, 2))
        if not 0 <= self.exponent <= 1:
            raise ValueError(f"exponent={self.exponent:g} must be in [0, 1]: 0 is unbiased, 0.5 the published choice")

    def backend(self, net: SparseModel, execution: Execution | None = None) -> Backend:
        """Build the network with masks over channels or weights; ``execution`` overrides the method's setting."""
        execution = self.execution if execution is None else execution
        if callable(execution):
            return execution(net)
        check_choice("execution", execution, get_args(ChannelExecution))
        if self.level == "weight":
            return super().backend(net, "masked")
        options = {"multiple": self.multiple, "sum_multiple": self.sum_multiple, "residual": self.residual}
        return CHANNELS[execution](net, ChannelNetwork.of(module_of(net), net.params, **options))

    # -- one step -----------------------------------------------------------------------------------------------------

    def before_step(self, net: SparseModel, clock: Clock, optimizer: Optimizer) -> None:
        """Clip the gradients; start the scores' optimizer when K begins to fall.

        Until then every probability is 1 and every estimate 0. An adaptive optimizer that counts these steps would make
        its first real steps several times too long, and a few noisy pairs would decide the masks.
        """
        if self.schedule == "cubic" and clock.step <= round(self.falls_from * clock.total):
            for score in net.learned.values():
                score.grad = None
        super().before_step(net, clock, optimizer)

    def loss(self, net: SparseModel, objective: Objective) -> Tensor:
        """Return the loss of a pair of draws, or of the final network once it is fixed."""
        if self.fixed(net):
            return self._run(net, objective, self.shown(net))
        path = self.next_draw(net)
        if self.phase(net) == "comparing":
            self._compare(net, objective)
        return self.pair(net, objective, self.draw(net, *path, 0), self.draw(net, *path, 1), path)

    def pair(
        self, net: SparseModel, objective: Objective, one: Masks, two: Masks, path: tuple[int, ...] = ()
    ) -> Tensor:
        """Return a loss whose gradient is exact for the weights and estimated for the scores.

        Args:
            net: scores and parameters.
            objective: weights -> loss of a batch.
            one: masks of the first draw.
            two: masks of the second draw.
            path: path of the draws, which seeds the sign of the shuffled control.
        """
        loss_one, loss_two = self._losses(net, objective, one, two)
        total = loss_one if self.backward_samples == 1 else (loss_one + loss_two) / 2
        sign = 1.0
        if self.shuffle:
            sign = 2.0 * torch.randint(2, (), generator=net.generator("sign", *path)).item() - 1.0
        losses = [
            sign * loss.detach().to(torch.promote_types(loss.dtype, torch.float32)) for loss in (loss_one, loss_two)
        ]
        for name, score in net.learned.items():
            gradient = policy_gradient(
                score,
                one[name].to(score.device),
                two[name].to(score.device),
                losses[0],
                losses[1],
                self.estimator,
                self.exponent,
            )
            # the value is unchanged, and the scores' gradient is the estimate: accumulated, scaled and averaged like
            # any other
            total = total + ((score - score.detach()) * gradient).sum()
        return total

    def _losses(self, net: SparseModel, objective: Objective, one: Masks, two: Masks) -> tuple[Tensor, Tensor]:
        """Return the losses of the networks with both masks, and record the networks that were run."""
        network = self.network(net)
        real = tuple(network.live(self.repair(net, masks)) for masks in (one, two))
        loss_one = self._run(net, objective, real[0])
        if self.backward_samples == 1 and all(torch.equal(m, real[1][name]) for name, m in real[0].items()):
            real, loss_two = real[:1], loss_one  # both draws are the same network: a second pass would add nothing
        elif self.backward_samples == 1:
            with torch.no_grad():
                loss_two = self._run(net, objective, real[1], statistics=False)
        else:
            loss_two = self._run(net, objective, real[1])
        self.runtime(net).ran = real  # with several micro-batches, the ledger charges the last one for all
        return loss_one, loss_two

    def _run(self, net: SparseModel, objective: Objective, masks: Masks, *, statistics: bool = True) -> Tensor:
        return self.network(net).run(objective, masks, statistics=statistics)

    @torch.no_grad()
    def _compare(self, net: SparseModel, objective: Objective) -> None:
        """Find the best of several draws on this batch, over all ranks."""
        draws = [self.repair(net, self.draw(net, "best", index)) for index in range(self.best_of)]
        losses = torch.stack([self._run(net, objective, masks, statistics=False).float() for masks in draws])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(losses)
        net.memory["best"] = dict(draws[int(losses.argmin())])
        del net.memory["wanted"]

    # -- cost ---------------------------------------------------------------------------------------------------------

    def passes(self, net: SparseModel, clock: Clock) -> Passes:
        """Two forward passes, and the backward passes of one network or of both; one of each in the final network."""
        if self.fixed(net):
            return self._final(net, executed=False)
        network, ran = self.network(net), self.runtime(net).ran
        if not ran:  # nothing is drawn yet: the expectation
            scores = {name: cpu(score).double() for name, score in net.learned.items()}
            return self._passes(*[network.shares(scores)] * 2)
        return self._passes(*map(network.shares, ran))

    def executed(self, net: SparseModel, clock: Clock) -> Passes | None:
        """Return the products of the small networks; None if the network runs at full size."""
        network, ran = self.network(net), self.runtime(net).ran
        if network.full_size:
            return None
        if self.fixed(net):
            return self._final(net, executed=True)
        return self._passes(*(network.shares(live, executed=True) for live in ran)) if ran else None

    def _final(self, net: SparseModel, *, executed: bool) -> Passes:
        shares = self.network(net).shares(self.shown(net), executed=executed)
        return Passes((shares,), (shares,), (shares,))

    def _passes(self, *shares: Mapping[str, float]) -> Passes:
        backward = shares[: self.backward_samples]
        return Passes(shares, backward, backward)
