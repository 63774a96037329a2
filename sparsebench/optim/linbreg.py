"""LinBreg: stochastic linearised Bregman iterations, with optional momentum in the dual variable."""
# pyright: reportPrivateImportUsage=false, reportPrivateUsage=false
# torch exposes its list-wise kernels only under a leading underscore.

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from .base import DualOptimizer, Group, check_number
from .multilevel import Criterion, Multilevel, Phase


class LinBreg(DualOptimizer):
    """Take gradient steps on the dual variable; weights are its image under the regulariser's proximal map.

        v <- v - lr g                                        momentum 0
        m <- momentum m + (1 - momentum) lr g;  v <- v - m   momentum > 0
        theta <- prox_{delta J}(delta v)

    The momentum is an average that includes the learning rate: unlike SGD's heavy ball, it does not lengthen the
    long-run step. With ``regularizer=None`` this is SGD with step ``delta * lr``.

    Args:
        params: Parameters, or groups with different settings; biases and norms belong in a group with regularizer None.
        lr: Step in the dual.
        regularizer: ``None``, ``"l1"`` (entries), ``"rows"`` (of a linear weight), ``"kernels"`` (one per output and
            input channel; the entries of a linear weight) or ``"filters"``; groups are weighted by the root of their
            size.
        lam: Strength of the regulariser; ``lambda_scale`` in a group multiplies it there.
        delta: Elasticity; scales the weights, not their support.
        momentum: Factor of the average, in [0, 1).
        weight_decay: Coupled: added to the gradient times the weights.

    Raises:
        ValueError: a value is out of range, or a tensor has too few dimensions for its regulariser; at the first step,
            all regularised tensors are zero.

    Source: Bungert, Roith, Tenbrinck, Burger 2022, LinBreg and LinBreg with momentum.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.1,
        regularizer: str | None = "l1",
        lam: float | None = None,
        *,
        delta: float = 1.0,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        lambda_scale: float = 1.0,
    ):
        super().__init__(
            params,
            lr,
            regularizer,
            lam,
            delta=delta,
            weight_decay=weight_decay,
            lambda_scale=lambda_scale,
            momentum=momentum,
        )

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        check_number(group, "momentum", below=1.0)

    def _moments(self, group: Group) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] > 0 else ()

    def _descend(self, group: Group, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        lr, momentum = group["lr"], group["momentum"]
        states = [self.state[parameter] for parameter in parameters]
        duals = [state["dual"] for state in states]
        if momentum == 0:
            torch._foreach_add_(duals, gradients, alpha=-lr)
            return
        for state in states:
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(state["dual"])
        buffers = [state["momentum_buffer"] for state in states]
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, gradients, alpha=(1 - momentum) * lr)
        torch._foreach_sub_(duals, buffers)


class MLLinBreg(Multilevel, LinBreg):
    """Run LinBreg in cycles of ``coarse_steps`` steps on active weights and one step on all weights.

    Takes the arguments of ``LinBreg`` and of the cycle (``Multilevel``). Duals of inactive weights are updated once
    per cycle, so lambda must be smaller than for LinBreg, or the initial density near the target.

    Source: Lunk, Scott, Bungert 2026 (arXiv 2602.03535), ML LinBreg.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.1,
        regularizer: str | None = "l1",
        lam: float | None = None,
        *,
        delta: float = 1.0,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        lambda_scale: float = 1.0,
        coarse_steps: int = 99,
        start_with: Phase = "coarse",
        criterion: Criterion = "fixed",
        kappa: float = 0.45,
        eta: float = 0.01,
    ):
        # Not LinBreg.__init__: torch takes the defaults of all classes at once, as one dictionary.
        DualOptimizer.__init__(
            self,
            params,
            lr,
            regularizer,
            lam,
            delta=delta,
            weight_decay=weight_decay,
            lambda_scale=lambda_scale,
            momentum=momentum,
            coarse_steps=coarse_steps,
            start_with=start_with,
            criterion=criterion,
            kappa=kappa,
            eta=eta,
        )
