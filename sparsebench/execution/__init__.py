"""How sparse weights are really computed."""

from sparsebench.execution.compact import ChannelNetwork
from sparsebench.execution.shrink import removable, shrink
from sparsebench.execution.trial import Trial
from sparsebench.execution.weights import WeightNetwork

__all__ = ["ChannelNetwork", "Trial", "WeightNetwork", "removable", "shrink"]
