"""AdaBreg: Bregman iterations whose dual variable is updated by the bias-corrected moments of Adam."""
# pyright: reportPrivateImportUsage=false, reportPrivateUsage=false
# torch exposes its list-wise kernels only under a leading underscore.

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from .base import DualOptimizer, Group, check_number
from .multilevel import Criterion, Multilevel, Phase


class AdaBreg(DualOptimizer):
    """Take Adam steps on the dual variable; weights are its image under the regulariser's proximal map.

        m <- b1 m + (1 - b1) g;  s <- b2 s + (1 - b2) g^2
        v <- v - lr (m / (1 - b1^t)) / (sqrt(s / (1 - b2^t)) + eps)
        theta <- prox_{delta J}(delta v)

    A dual moves by about ``lr`` per step for gradients of any size, so tiny persistent gradients fill up layers; for
    oversized classifiers raise ``eps`` to about 1e-4. With ``regularizer=None`` this is Adam with step ``delta * lr``.
    Each tensor has one step count t.

    Args:
        params: Parameters, or groups with different settings; biases and norms belong in a group with regularizer None.
        lr: Step in the dual.
        regularizer: ``None``, ``"l1"``, ``"rows"``, ``"kernels"`` or ``"filters"``, as for ``LinBreg``.
        lam: Strength of the regulariser; ``lambda_scale`` in a group multiplies it there.
        delta: Elasticity; scales the weights, not their support.
        betas: Factors of the two averages, each in [0, 1).
        eps: Added to the root of the second moment.
        weight_decay: Coupled: added to the gradient times the weights.

    Raises:
        ValueError: as for ``LinBreg``.

    Source: Bungert, Roith, Tenbrinck, Burger 2022, AdaBreg, with both bias corrections applied.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        regularizer: str | None = "l1",
        lam: float | None = None,
        *,
        delta: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
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
            betas=betas,
            eps=eps,
        )

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        check_number(group, "eps")
        betas = tuple(group["betas"])
        if len(betas) != 2 or not all(0.0 <= beta < 1.0 for beta in betas):
            raise ValueError(f"betas {group['betas']!r} must be two numbers, each 0 or more and below 1")
        group["betas"] = (float(betas[0]), float(betas[1]))

    def _moments(self, group: Group) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    def _create_state(self, group: Group, parameter: Tensor) -> None:
        super()._create_state(group, parameter)
        state = self.state[parameter]
        state.update(step=0, exp_avg=torch.zeros_like(state["dual"]), exp_avg_sq=torch.zeros_like(state["dual"]))

    def _descend(self, group: Group, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        first, second = group["betas"]
        states = [self.state[parameter] for parameter in parameters]
        for state in states:
            state["step"] += 1
        means = [state["exp_avg"] for state in states]
        squares = [state["exp_avg_sq"] for state in states]

        torch._foreach_lerp_(means, gradients, 1 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - second)

        roots = torch._foreach_sqrt(squares)
        torch._foreach_div_(roots, [(1 - second ** state["step"]) ** 0.5 for state in states])
        torch._foreach_add_(roots, group["eps"])
        steps = [-group["lr"] / (1 - first ** state["step"]) for state in states]
        torch._foreach_addcdiv_([state["dual"] for state in states], means, roots, steps)


class MLAdaBreg(Multilevel, AdaBreg):
    """Run AdaBreg in cycles of ``coarse_steps`` steps on active weights and one step on all weights.

    Takes the arguments of ``AdaBreg`` and of the cycle (``Multilevel``). The step count of the bias correction
    advances in coarse phases too, even for entries whose moments are frozen: an approximation.

    Source: Lunk, Scott, Bungert 2026 (arXiv 2602.03535), with the dual step of AdaBreg (project choice).
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        regularizer: str | None = "l1",
        lam: float | None = None,
        *,
        delta: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        lambda_scale: float = 1.0,
        coarse_steps: int = 99,
        start_with: Phase = "coarse",
        criterion: Criterion = "fixed",
        kappa: float = 0.45,
        eta: float = 0.01,
    ):
        # Not AdaBreg.__init__: torch takes the defaults of all classes at once, as one dictionary.
        DualOptimizer.__init__(
            self,
            params,
            lr,
            regularizer,
            lam,
            delta=delta,
            weight_decay=weight_decay,
            lambda_scale=lambda_scale,
            betas=betas,
            eps=eps,
            coarse_steps=coarse_steps,
            start_with=start_with,
            criterion=criterion,
            kappa=kappa,
            eta=eta,
        )
