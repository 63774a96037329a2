"""Choose the fastest way to compute a layer, timed once per shape, density, type and processor."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from sparsebench.execution.direct.build import cache_folder, capability, library_name
from sparsebench.execution.direct.support import density_of
from sparsebench.execution.direct.walk import Shape

Candidate = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Input, weight, bias -> output, differentiable."""

REFERENCE = "masked"
MARGIN = 0.95
"""A sparse way is preferred only below this share of the dense way's time, so that ties stay dense."""


class Choices:
    """The fastest way for each layer; times are shared within the process and stored in the user's cache.

    Attributes:
        seconds: description of a case -> way -> seconds of a forward and backward pass.
    """

    def __init__(self, rounds: int = 3) -> None:
        self.rounds = rounds
        self.seconds = _known()

    def times(
        self, ways: Mapping[str, Candidate], x: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor, shape: Shape
    ) -> Mapping[str, float]:
        """Return the seconds that each way needs to compute a layer, measured on the first call with this case.

        Args:
            ways: candidates by name, the dense ``masked`` among them.
            x: the input; its layout matters.
            weight: weight of the layer.
            bias: bias of the layer.
            mask: mask of the weight.
            shape: the layer's geometry.
        """
        case = describe(x, weight, mask, shape)
        if case not in self.seconds or set(self.seconds[case]) != set(ways):
            self.seconds[case] = self._time(ways, x, weight, bias)
            _keep(self.seconds)
        return self.seconds[case]

    def _time(self, ways: Mapping[str, Candidate], x: Tensor, weight: Tensor, bias: Tensor | None) -> dict[str, float]:
        """Run all ways in turn on copies; the first round builds indices and warms up."""
        taken: dict[str, list[float]] = {way: [] for way in ways}
        train = torch.is_grad_enabled()
        inputs = x.detach().requires_grad_(train and x.requires_grad)
        copy = weight.detach().requires_grad_(train)
        shift = None if bias is None else bias.detach().requires_grad_(train)
        leaves = [leaf for leaf in (inputs, copy, shift) if leaf is not None and leaf.requires_grad]
        for number in range(self.rounds + 1):
            for name, way in ways.items():
                began = time.perf_counter()
                out = way(inputs, copy, shift)
                if leaves:
                    torch.autograd.grad(out, leaves, torch.ones_like(out))
                if number:
                    taken[name].append(time.perf_counter() - began)
        return {name: min(seconds) for name, seconds in taken.items()}


def fastest(times: Mapping[str, float]) -> str:
    """Return the name of the fastest way: the dense one unless another is clearly faster."""
    best = min(times, key=lambda way: times[way])
    return best if times[best] < MARGIN * times[REFERENCE] else REFERENCE


def describe(x: Tensor, weight: Tensor, mask: Tensor, shape: Shape) -> str:
    """Return the properties that determine speed as readable text, with densities in steps of a fifth.

    The seconds depend only on the counts, so two masks of equal density share a choice.
    """
    density = density_of(mask)
    bucket = "empty" if density == 0 else f"{1.2 ** round(math.log(density, 1.2)):.3g}"
    layout = "batch innermost" if x.movedim(0, -1).is_contiguous() and not x.is_contiguous() else "usual"
    low = str(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else str(x.dtype)
    passes = "forward" if not torch.is_grad_enabled() else "step" if x.requires_grad else "step without input gradient"
    return (
        f"{tuple(weight.shape)} on {tuple(x.shape)}, stride {shape.stride}, padding {shape.padding}, density {bucket}, "
        f"{low}, {layout}, {passes}, {torch.get_num_threads()} threads"
    )


@cache
def _known() -> dict[str, dict[str, float]]:
    """Return the times known to this process, initially those in the user's cache."""
    try:
        return json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _keep(seconds: Mapping[str, Mapping[str, float]]) -> None:
    """Write the times to the cache if possible; a lost entry is simply timed again."""
    try:
        _file().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=_file().parent, delete=False) as text:
            json.dump(seconds, text, indent=1)
        os.replace(text.name, _file())
    except OSError:
        pass


@cache
def _file() -> Path:
    """Return the path of the cached times, which depends on processor, PyTorch version and kernels."""
    info = Path("/proc/cpuinfo")
    models = (
        [line for line in info.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    parts = (models[0] if models else platform.machine(), torch.__version__, library_name(capability()))
    return cache_folder() / f"times-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}.json"
