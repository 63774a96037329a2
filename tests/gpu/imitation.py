"""What ``torch.cuda.make_graphed_callables`` does, imitated on a processor with all its traps.

The memory of weights, batch, output and gradients is that of the recording: who keeps an output over a replay or
accumulates gradients gets wrong numbers here as on a GPU, and no error. Arguments that lie elsewhere are copied there.
"""

from __future__ import annotations

import torch

WARM = 3


def imitate(function, sample):
    """Record: run the function a few times, which spoils running statistics and random states, and keep addresses."""
    batch = sample[0]
    if torch.is_autocast_enabled(batch.device.type) and torch.is_autocast_cache_enabled():
        raise RuntimeError("autocast must not cache while graphs are recorded")
    trained = [tensor for tensor in sample if tensor.requires_grad]
    for _ in range(WARM):
        output = function(*sample)
        torch.autograd.grad(output, trained, torch.empty_like(output).fill_(7.0), allow_unused=True)
    mode = {"dtype": torch.get_autocast_dtype("cpu"), "enabled": torch.is_autocast_enabled("cpu")}
    static_output = output.detach().clone()
    slopes = [torch.empty_like(tensor) if tensor.requires_grad else None for tensor in sample]
    kept = {}

    class Graphed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            for static, given in zip(sample, inputs, strict=True):
                if static.data_ptr() != given.data_ptr():
                    static.data.copy_(given)
            leaves = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in sample]
            with torch.enable_grad(), torch.autocast("cpu", cache_enabled=False, **mode):
                made = function(*leaves)
            kept.update(made=made, leaves=leaves)
            static_output.copy_(made.detach())
            return static_output.detach()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, slope):
            wanted = [leaf for leaf in kept["leaves"] if leaf.requires_grad]
            found = iter(torch.autograd.grad(kept["made"], wanted, slope, allow_unused=True))
            out = []
            for place in slopes:
                gradient = None if place is None else next(found)
                out.append(None if gradient is None else place.copy_(gradient).detach())
            return tuple(out)

    return Graphed.apply
