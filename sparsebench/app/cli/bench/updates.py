"""``sparsebench bench updates``: one change of the masks of a whole network, compared with two published patterns."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from sparsebench.app.cli.bench.options import CLOCKS
from sparsebench.app.cli.bench.peers import PEERS
from sparsebench.app.cli.bench.protocol import interleave, ratio
from sparsebench.app.cli.bench.training import head, place, save, table
from sparsebench.functional.distribution import erk
from sparsebench.methods import SET, Clock, Probe, RigL
from sparsebench.models import build
from sparsebench.sparse import SparseModel

SHARE = 0.3
"""Share of the active weights that is exchanged, as in RigL."""


def main(options: argparse.Namespace, *, command: str) -> None:
    """Measure and print a table of ratios: the peer's update over ours, larger is better.

    Args:
        options: arguments parsed by ``options.updates``.
        command: the command line, to be recorded.
    """
    device, _ = place(options)
    rows = [measure(kind, options, device) for kind in ("gradient", "random")]
    print(head(options, device, f"{options.model}, {options.sparsity:g} zeros, ERK, {SHARE:g} exchanged"))
    print(table(rows))
    save(options, command, rows)


def measure(kind: str, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Measure updates that grow by gradient, or at random."""
    network = build(options.model, classes=options.classes, shape=(3, options.size, options.size)).to(device)
    net = SparseModel.of(network)
    chosen = RigL if kind == "gradient" else SET
    method = chosen(density=1 - options.sparsity, distribution=erk, every=1, until=1.0, drop_fraction=SHARE)
    method.start(net, Probe(lambda number, **wanted: [], lambda weights: torch.zeros(())))
    random = torch.Generator().manual_seed(0)
    gradients = {n: torch.randn(p.shape, generator=random).to(device) for n, p in net.params.items()}
    clock = Clock(1, 1_000_000)

    def ours() -> None:
        # every round changes the masks again: the work is equal, since counts stay
        net.memory["gradient"] = dict(gradients)
        method.rewire(net, clock, None)

    patterns = {name: pattern(net) for name, pattern in PEERS.items()} if kind == "gradient" else {}
    cases: dict[str, Any] = {"ours": ours, "ours again": ours}
    cases |= {name: lambda p=pattern: p.update(gradients, SHARE) for name, pattern in patterns.items()}
    seconds = interleave(cases, rounds=options.rounds, device=device, clock=CLOCKS[options.clock])
    row: dict[str, Any] = {
        "growth": kind,
        "weights": sum(p.numel() for p in net.params.values()),
        "ms, ours": round(1000 * min(seconds["ours"]), 3),
        "ours / ours": ratio(seconds["ours"], seconds["ours again"]),
    }
    return row | {f"{name} / ours": ratio(seconds[name], seconds["ours"]) if name in seconds else "" for name in PEERS}
