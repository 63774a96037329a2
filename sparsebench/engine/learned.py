"""What a method learns beside the network, scores or thresholds: with the weights' optimizer, or one of its own."""

from __future__ import annotations

from typing import Any

import lightning as L
from torch.nn import Parameter
from torch.optim import Optimizer

from sparsebench.engine.protocols import OptimizesMore
from sparsebench.methods.base import Method
from sparsebench.optim.groups import Together
from sparsebench.sparse import SparseModel


def create_learned(net: SparseModel, method: Method) -> None:
    """Make parameters of the initial values."""
    net.learned = {name: Parameter(value) for name, value in method.learned(net).items()}


def announce_learned(module: L.LightningModule, net: SparseModel, method: Method) -> None:
    """Tell a module that can optimize more than its own parameters what to take along."""
    if net.learned and isinstance(module, OptimizesMore):
        own = _own_optimizer(net, method)
        groups = [_group(net, method)] if own is None else []
        module.extra_optimizers, module.extra_groups = ([] if own is None else [own]), groups


def check_trained(trainer: L.Trainer, net: SparseModel) -> None:
    """Refuse parameters that no optimizer holds: they would be pruned, regrown as zeros, and counted.

    Raises:
        ValueError: names them.
    """
    held = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    idle = [name for name, parameter in net.params.items() if id(parameter) not in held]
    if idle:
        raise ValueError(
            f"the optimizer does not hold {', '.join(idle[:4])}{' and others' if len(idle) > 4 else ''}, which may be "
            f"sparse: give it these parameters, or leave them dense with requires_grad_(False) or exclude={idle[:4]}"
        )


def adopt_learned(trainer: L.Trainer, net: SparseModel, method: Method) -> None:
    """Add to the trainer's optimizer what the module has not taken along."""
    optimizer = trainer.optimizers[0]
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if all(id(p) in held for p in net.learned.values()):
        return
    own = _own_optimizer(net, method)
    if own is None:
        optimizer.add_param_group(_group(net, method))
    else:
        trainer.optimizers = [Together([optimizer, own])]


def _group(net: SparseModel, method: Method) -> dict[str, Any]:
    return {"params": list(net.learned.values()), **method.learned_options()}


def _own_optimizer(net: SparseModel, method: Method) -> Optimizer | None:
    return method.learned_optimizer(_group(net, method))
