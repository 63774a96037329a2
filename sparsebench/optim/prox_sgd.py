"""ProxSGD: proximal gradient descent without a dual variable, the baseline for Bregman methods."""
# pyright: reportPrivateImportUsage=false, reportPrivateUsage=false
# torch exposes its list-wise kernels only under a leading underscore.

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from .base import Group, RegularizedOptimizer, couple_gradients
from .regularizer import find_lambda, map_to_primal


class ProxSGD(RegularizedOptimizer):
    """Take a gradient step and apply the regulariser's proximal map to the weights themselves.

        theta <- prox_{t J}(theta - t g),  t = delta lr

    The threshold acts at every step and biases the weights towards zero, whereas LinBreg's acts only when weights enter
    or leave the support. ``delta`` makes all optimizers take the same step without a regulariser.

    Args:
        params: Parameters, or groups with different settings.
        lr: Step size.
        regularizer: ``None``, ``"l1"``, ``"rows"``, ``"kernels"`` or ``"filters"``, as for ``LinBreg``.
        lam: Strength of the regulariser; ``lambda_scale`` in a group multiplies it there.
        delta: Factor on the step.
        weight_decay: Added to the gradient times the weights.

    Raises:
        ValueError: a value is out of range, or a tensor has too few dimensions for its regulariser.

    Source: Bungert, Roith, Tenbrinck, Burger 2022, baseline "ProxGD".
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.1,
        regularizer: str | None = "l1",
        lam: float | None = None,
        *,
        delta: float = 1.0,
        weight_decay: float = 0.0,
        lambda_scale: float = 1.0,
    ):
        super().__init__(
            params, lr, regularizer, lam, delta=delta, weight_decay=weight_decay, lambda_scale=lambda_scale
        )

    def _update(self, group: Group, parameters: list[Tensor]) -> None:
        step = group["lr"] * group["delta"]
        moved = torch._foreach_add(parameters, couple_gradients(group, parameters), alpha=-step)
        threshold = step * find_lambda(group)
        images = [map_to_primal(tensor, threshold, 1.0, group["regularizer"]) for tensor in moved]
        torch._foreach_copy_(parameters, images)
