"""``sparsebench bench nm``: products with 2:4 sparse weights on tensor cores, compared with dense ones."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch.nn import functional
from torch.sparse import to_sparse_semi_structured

from sparsebench.app.cli.bench.options import CLOCKS
from sparsebench.app.cli.bench.protocol import interleave, ratio
from sparsebench.app.cli.bench.training import head, place, save, table
from sparsebench.patterns import NofM

SIZES = ((1024, 1024), (4096, 4096), (4096, 11008))
"""Outputs and inputs of linear layers."""


def main(options: argparse.Namespace, *, command: str) -> None:
    """Measure and print ratios: dense over sparse, larger is better.

    Args:
        options: arguments parsed by ``options.nm``.
        command: the command line, to be recorded.
    """
    device, _ = place(options)
    sizes = SIZES if device.type == "cuda" else ((64, 64),)
    rows = [measure(*size, options, device) for size in sizes]
    print(head(options, device, f"linear layers, batch {options.batch}, bfloat16, 2:4"))
    print(table(rows))
    save(options, command, rows)


def measure(out: int, inputs: int, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Measure a forward product; the row notes cases that this machine does not support."""
    weight = torch.randn(out, inputs, device=device, dtype=torch.bfloat16)
    x = torch.randn(options.batch, inputs, device=device, dtype=torch.bfloat16)
    mask = NofM(n=2, m=4).keep({"w": weight.float().abs()}, {"w": out * inputs // 2})["w"]
    row: dict[str, Any] = {"layer": f"{inputs} to {out}", "dense / dense": "", "dense / 2:4": "", "why not": ""}
    zeroed = weight * mask
    try:
        sparse = to_sparse_semi_structured(zeroed)
        worst = float((functional.linear(x, sparse) - functional.linear(x, zeroed)).abs().max())
    except (RuntimeError, ValueError, NotImplementedError) as error:
        return row | {"why not": " ".join(str(error).split())[:100]}
    cases = {
        "dense": lambda: functional.linear(x, zeroed),
        "dense again": lambda: functional.linear(x, zeroed),
        "sparse": lambda: functional.linear(x, sparse),
    }
    seconds = interleave(cases, rounds=options.rounds, device=device, clock=CLOCKS[options.clock])
    return row | {
        "dense / dense": ratio(seconds["dense"], seconds["dense again"]),
        "dense / 2:4": ratio(seconds["dense"], seconds["sparse"]),
        "largest difference": worst,
    }
