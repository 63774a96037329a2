"""Optimizers that make weights sparse through a dual variable, and helpers to combine optimizers."""

from .adabreg import AdaBreg, MLAdaBreg
from .fused import fuse
from .groups import Together, decay_groups, regularized_groups
from .linbreg import LinBreg, MLLinBreg
from .multilevel import Multilevel
from .prox_sgd import ProxSGD
from .regularizer import quantile_lambda
from .wrappers import ham, sparse_opt

__all__ = [
    "AdaBreg",
    "LinBreg",
    "MLAdaBreg",
    "MLLinBreg",
    "Multilevel",
    "ProxSGD",
    "Together",
    "decay_groups",
    "fuse",
    "ham",
    "quantile_lambda",
    "regularized_groups",
    "sparse_opt",
]
