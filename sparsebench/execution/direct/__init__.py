"""Products that skip the zeros of a mask: linear layers and convolutions on processors, forward and backward."""

from sparsebench.execution.direct.build import NoKernels, available, capability
from sparsebench.execution.direct.functions import conv2d, conv2d_values, linear, linear_values
from sparsebench.execution.direct.modules import SparseConv2d, SparseLinear, store_active
from sparsebench.execution.direct.support import Support, support_of

__all__ = [
    "NoKernels",
    "SparseConv2d",
    "SparseLinear",
    "Support",
    "available",
    "capability",
    "conv2d",
    "conv2d_values",
    "linear",
    "linear_values",
    "store_active",
    "support_of",
]
