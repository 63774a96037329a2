"""Scores or thresholds that a method learns with the weights, in the same optimizer or a separate one."""

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
    """Create parameters from the method's initial values."""
    net.learned = {name: Parameter(value) for name, value in method.learned(net).items()}


def announce_learned(module: L.LightningModule, net: SparseModel, method: Method) -> None:
    """Pass learned parameters to a module that can optimize more than its own parameters."""
    if net.learned and isinstance(module, OptimizesMore):
        own = _own_optimizer(net, method)
        groups = [_group(net, method)] if own is None else []
        module.extra_optimizers, module.extra_groups = ([] if own is None else [own]), groups


def adopt_learned(trainer: L.Trainer, optimizer: Optimizer, net: SparseModel, method: Method) -> Optimizer:
    """Add learned parameters that the module did not include to an optimizer, and return that optimizer."""
    held = {id(p) for one in trainer.optimizers for group in one.param_groups for p in group["params"]}
    if all(id(p) in held for p in net.learned.values()):
        return optimizer
    own = _own_optimizer(net, method)
    if own is None:
        optimizer.add_param_group(_group(net, method))
        for configured in trainer.lr_scheduler_configs:
            extend_schedule(configured.scheduler, optimizer)
        return optimizer
    both = Together([optimizer, own])
    trainer.optimizers = [both if one is optimizer else one for one in trainer.optimizers]
    return both


def extend_schedule(scheduler: Any, optimizer: Optimizer) -> None:
    """Extend a scheduler by a parameter group added to its optimizer later."""
    for part in getattr(scheduler, "_schedulers", ()):  # a chain or a sequence of schedulers
        extend_schedule(part, optimizer)
    if scheduler.optimizer is not optimizer or "base_lrs" not in vars(scheduler):
        return
    first, new = optimizer.param_groups[0], optimizer.param_groups[-1]
    for key in first.keys() - new.keys() - {"params"}:  # limits that cyclic schedules keep in each group
        new[key] = first[key]
    new["initial_lr"] = new["lr"]
    for name, value in vars(scheduler).items():  # lists such as base_lrs and lr_lambdas have one entry per group
        if isinstance(value, list) and len(value) == len(optimizer.param_groups) - 1:
            value.append(new["lr"] if name == "base_lrs" else value[0])


def _group(net: SparseModel, method: Method) -> dict[str, Any]:
    return {"params": list(net.learned.values()), **method.learned_options()}


def _own_optimizer(net: SparseModel, method: Method) -> Optimizer | None:
    return method.learned_optimizer(_group(net, method))
