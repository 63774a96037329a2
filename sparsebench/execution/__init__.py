"""How sparse weights are really computed."""

from sparsebench.execution.autotune import Trial
from sparsebench.execution.channel_network import ChannelNetwork
from sparsebench.execution.shrink import removable, shrink
from sparsebench.execution.weight_network import WeightNetwork

__all__ = ["ChannelNetwork", "Trial", "WeightNetwork", "removable", "shrink"]
