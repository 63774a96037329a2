"""Back ends that compute sparse networks, behind one interface and chosen by name."""

from sparsebench.execution.autotune import Fastest, Trial
from sparsebench.execution.backends import build_backend
from sparsebench.execution.base import Backend, Live
from sparsebench.execution.channel_network import ChannelNetwork, MaskedChannels
from sparsebench.execution.runtime import Runtime
from sparsebench.execution.shrink import nonzero_filters, removable, shrink
from sparsebench.execution.sparse_network import SparseNetwork
from sparsebench.execution.weight_network import StoredZeros, WeightBackend, WeightNetwork

__all__ = [
    "Backend",
    "ChannelNetwork",
    "Fastest",
    "Live",
    "MaskedChannels",
    "Runtime",
    "SparseNetwork",
    "StoredZeros",
    "Trial",
    "WeightBackend",
    "WeightNetwork",
    "build_backend",
    "nonzero_filters",
    "removable",
    "shrink",
]
