"""Back ends by name, as used in ``Sparsity(method, execution=...)`` and the key ``execution``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from sparsebench.execution.autotune import Fastest
from sparsebench.execution.base import Backend
from sparsebench.execution.channel_network import ChannelNetwork, MaskedChannels
from sparsebench.execution.runtime import module_of
from sparsebench.execution.sparse_network import SparseNetwork
from sparsebench.execution.weight_network import StoredZeros
from sparsebench.runs.messages import check_choice
from sparsebench.sparse.model import SparseModel

Execution = str | Callable[[SparseModel], Backend]
"""Name of a back end, or a subclass of ``WeightBackend`` or function that builds one for a sparse model."""

ChannelExecution = Literal["compact", "masked", "auto"]

WEIGHTS: Mapping[str, Callable[[SparseModel], Backend]] = {
    "masked": StoredZeros,
    "direct": lambda net: SparseNetwork(net, "direct"),
    "csr": lambda net: SparseNetwork(net, "csr"),
    "auto": lambda net: SparseNetwork(net, "auto"),
}
"""Back ends for masks over single weights, with stored zeros."""

CHANNELS: Mapping[str, Callable[[SparseModel, ChannelNetwork], Backend]] = {
    "compact": lambda net, network: network,
    "masked": lambda net, network: MaskedChannels(network),
    "auto": lambda net, network: Fastest(net, network, MaskedChannels(network)),
}
"""Back ends for masks over whole output channels, which act after the norms."""


def build_backend(execution: Execution, net: SparseModel, *, channels: bool, who: str) -> Backend:
    """Build a back end by name or class for a method with stored zeros.

    Args:
        execution: name of the back end, or the class or function that builds it.
        net: parameters and module.
        channels: whether the method keeps or drops whole output channels.
        who: name of the method, for error messages.

    Raises:
        ValueError: the back end does not exist, or needs masks that the method does not have.
    """
    if callable(execution):
        return execution(net)
    check_choice("execution", execution, dict.fromkeys([*CHANNELS, *WEIGHTS]))
    if channels and execution in CHANNELS:
        layers = [name.removesuffix(".weight") for name in net.params]
        return CHANNELS[execution](net, ChannelNetwork(module_of(net), layers, sum_multiple=16))
    if execution not in WEIGHTS:
        raise ValueError(
            f"execution={execution} needs whole output channels, which {who} does not prune: set pattern=channels, "
            f"choose method=vr_pge, or leave execution=null"
        )
    return WEIGHTS[execution](net)
