"""Run a network with masked weights through sparse products, layer by layer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping
from functools import partial
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsebench.execution import csr
from sparsebench.execution.base import replace
from sparsebench.execution.choice import Candidate, Choices, fastest
from sparsebench.execution.direct import Support, available, support_of
from sparsebench.execution.direct.functions import conv2d_values, linear_values
from sparsebench.execution.direct.modules import refusal
from sparsebench.execution.direct.support import density_of
from sparsebench.execution.direct.walk import Pair, Shape
from sparsebench.execution.layout import kept

Kernel = Literal["masked", "direct", "csr", "auto"]
Layer = nn.Linear | nn.Conv2d

DENSE = 0.5
"""Density above which a layer stays dense: sparse products are slower, and their indices larger than the weights."""


class SparseLayers:
    """Replace the products of masked layers while a network runs; weights, gradients and checkpoints stay plain.

    Linear layers and convolutions of one group whose weight has a mask multiply by their active weights only. Other
    layers do not change. Between sparse layers activations keep the batch innermost; BatchNorm and pooling work on this
    layout directly. Weights outside the masks must be zero (stored zeros).

    Args:
        module: the network; its layers' ``forward`` is replaced within ``installed`` only.
        parameters: the weights that may have masks, by name.
        backend: back end of layers with a density of at most one half; others stay dense. ``direct``: compiled kernels;
            ``csr``: PyTorch's sparse rows, for linear layers and 1x1 convolutions; ``masked``: dense products;
            ``auto``: the fastest for each layer, timed at the first call with its shape.

    Attributes:
        refused: layer that has one of the parameters but stays dense -> reason.
        choices: the timings of ``auto``.
        times: seconds of each way in the last run, by name of the weight; for ``auto`` only.

    Raises:
        ValueError: the back end is unknown.
    """

    def __init__(self, module: nn.Module, parameters: Mapping[str, Tensor], backend: Kernel = "direct") -> None:
        if backend not in get_args(Kernel):
            raise ValueError(f"execution={backend!r} is unknown: choose one of {', '.join(get_args(Kernel))}")
        self.module, self.backend, self.choices = module, backend, Choices()
        self.layers: dict[str, Layer] = {}
        self.refused: dict[str, str] = {}
        self.times: dict[str, Mapping[str, float]] = {}
        self._seen: dict[str, str] = {}
        names = {id(weight): name for name, weight in parameters.items()}
        for path, layer in cast(Iterator[tuple[str, nn.Module]], module.named_modules()):
            weight = getattr(layer, "weight", None)
            if id(weight) not in names:
                continue
            if reason := refusal(layer):
                self.refused[path] = reason
            else:
                self.layers[names[id(weight)]] = cast(Layer, layer)

    @property
    def chosen(self) -> dict[str, str]:
        """Back end used in the last run of each masked layer, by name of its weight."""
        return dict(self._seen)

    @contextlib.contextmanager
    def installed(self, masks: Mapping[str, Tensor], *, dense_gradient: bool = False) -> Generator[None]:
        """Multiply only by active weights while the context lasts.

        Args:
            masks: bool, by parameter name; layers without a mask stay dense.
            dense_gradient: whether weights outside the masks need gradients in this step, which requires dense
                products.
        """
        if dense_gradient or self.backend == "masked":
            self._seen = dict.fromkeys(masks, "masked")
            yield
            return
        with contextlib.ExitStack() as stack:
            for name, layer in self.layers.items():
                if name in masks:
                    replace(stack, layer, "forward", partial(self._forward, name, layer, layer.forward, masks[name]))
            stack.enter_context(kept(self.module))
            yield

    def _forward(self, name: str, layer: Layer, dense: Callable[[Tensor], Tensor], mask: Tensor, x: Tensor) -> Tensor:
        ways = self._candidates(layer, dense, mask, x)
        way = self._choose(name, layer, ways, mask, x)
        self._seen[name] = way
        return ways[way](x, layer.weight, layer.bias)

    def _candidates(
        self, layer: Layer, dense: Callable[[Tensor], Tensor], mask: Tensor, x: Tensor
    ) -> dict[str, Candidate]:
        """Return the possible ways to compute a layer's output here, by name."""
        ways: dict[str, Candidate] = {"masked": partial(_dense, layer)}
        precise = layer.weight.dtype in (torch.float32, torch.float64)
        if not precise or x.device.type != "cpu" or (x.ndim == 3 and isinstance(layer, nn.Conv2d)):
            return ways
        if density_of(mask) > DENSE:
            return ways
        if available():
            ways["direct"] = partial(_sparse, layer, mask, None)
        if csr.serves(_shape(layer, x)):
            ways["csr"] = partial(_sparse, layer, mask, csr.multiply)
        return ways

    def _choose(self, name: str, layer: Layer, ways: Mapping[str, Candidate], mask: Tensor, x: Tensor) -> str:
        if self.backend != "auto":
            return self.backend if self.backend in ways else "masked"
        if len(ways) == 1:
            return "masked"
        self.times[name] = self.choices.times(ways, x, layer.weight, layer.bias, mask, _shape(layer, x))
        return fastest(self.times[name])


def _dense(layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if isinstance(layer, nn.Linear):
        return functional.linear(x, weight, bias)
    return functional.conv2d(x, weight, bias, layer.stride, layer.padding)


def _sparse(layer: Layer, mask: Tensor, multiply: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    support: Support = support_of(mask)
    if torch.is_autocast_enabled("cpu"):
        x = x.to(weight.dtype)
    values = support.values(weight)
    if isinstance(layer, nn.Linear):
        return linear_values(x, values, support, bias, multiply=multiply)
    stride, padding = cast(Pair, layer.stride), cast(Pair, layer.padding)
    return conv2d_values(x, values, support, bias, stride, padding, multiply=multiply)


def _shape(layer: Layer, x: Tensor) -> Shape:
    if isinstance(layer, nn.Linear):
        return Shape((1, 1), (1, 1), (1, 1), (0, 0))
    rows, columns = layer.kernel_size
    return Shape((x.shape[2], x.shape[3]), (rows, columns), cast(Pair, layer.stride), cast(Pair, layer.padding))
