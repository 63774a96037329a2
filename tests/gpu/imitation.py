"""What ``torch.cuda.make_graphed_callables`` does, imitated on a processor with all its traps.

The memory of parameters, buffers, batch, output and gradients is that of the recording: who replaces one of them, keeps
an output over a replay or accumulates gradients gets wrong numbers here as on a GPU, and no error.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

WARM = 3


def imitate(module: nn.Module, batch: Tensor):
    """Record: run the module a few times, which spoils running statistics and random states, and keep addresses."""
    if torch.is_autocast_enabled(batch.device.type) and torch.is_autocast_cache_enabled():
        raise RuntimeError("autocast must not cache while graphs are recorded")
    parameters = list(module.parameters())
    trained = [p for p in parameters if p.requires_grad]
    for _ in range(WARM):
        output = module(batch)
        torch.autograd.grad(output, trained, torch.empty_like(output).fill_(7.0), allow_unused=True)
    mode = {"dtype": torch.get_autocast_dtype("cpu"), "enabled": torch.is_autocast_enabled("cpu")}
    there = {name: p.data for name, p in module.named_parameters()}  # the memory, not the parameter
    there |= {name: b.data for name, b in module.named_buffers()}
    kept: dict[str, Tensor] = {"output": output.detach().clone()}
    slopes = [torch.empty_like(p) for p in trained]
    needs = {name for name, p in module.named_parameters() if p.requires_grad}

    class Graphed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, images, *given):
            batch.copy_(images)
            leaves = {n: t.detach().requires_grad_() if n in needs else t for n, t in there.items()}
            with torch.enable_grad(), torch.autocast("cpu", cache_enabled=False, **mode):
                made = torch.func.functional_call(module, leaves, (batch,))
            kept.update(made=made, **{n: leaves[n] for n in needs})
            kept["output"].copy_(made.detach())
            return kept["output"].detach()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, slope):
            wanted = [kept[name] for name, p in module.named_parameters() if p.requires_grad]
            found = torch.autograd.grad(kept["made"], wanted, slope, allow_unused=True)
            for place, gradient in zip(slopes, found, strict=True):
                if gradient is not None:
                    place.copy_(gradient)
            each = iter(zip(slopes, found, strict=True))
            out = []
            for parameter in parameters:
                place, gradient = next(each) if parameter.requires_grad else (None, None)
                out.append(None if gradient is None else place.detach())
            return None, *out

    return lambda images: Graphed.apply(images, *parameters)
