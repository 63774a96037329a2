"""``sparsebench bench overhead``: cost of a step between two updates relative to a dense step, for every method."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from sparsebench.app.cli.bench.options import CLOCKS
from sparsebench.app.cli.bench.peers import PEERS
from sparsebench.app.cli.bench.protocol import interleave, ratio
from sparsebench.app.cli.bench.training import Trained, batch, head, place, save, table

Row = dict[str, Any]


def main(options: argparse.Namespace, *, command: str) -> None:
    """Measure and print a table of ratios: a method's step over a dense step, smaller is better.

    Args:
        options: arguments parsed by ``options.overhead``.
        command: the command line, to be recorded.
    """
    device, _ = place(options)
    print(head(options, device, f"{options.model}, batch {options.batch}, {options.dtype}, {options.sparsity:g} zeros"))
    rows: list[Row] = []
    for name in [*options.methods, *PEERS]:
        rows.append(measure(name, options))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    print(f"\n{table(rows)}")
    save(options, command, rows)


def measure(name: str, options: argparse.Namespace) -> Row:
    """Measure a method, or a peer's pattern, in turn with dense steps of the same network and batch."""
    device, low = place(options)
    images, labels = batch(options, device)
    try:
        dense = Trained("dense", options.model, options.sparsity, images, labels, low)
        method = "static" if name in PEERS else name
        subject = Trained(method, options.model, options.sparsity, images, labels, low)
        step: Callable[[], None] = subject.peer(name) if name in PEERS else subject.step
        cases = {"dense": dense.step, "dense again": dense.step, name: step}
        seconds = interleave(cases, rounds=options.rounds, device=device, clock=CLOCKS[options.clock])
    except (ValueError, RuntimeError) as error:  # a method that cannot run here must not stop the others
        return {"method": name, "dense / dense": "", "method / dense": "", "ms, dense": "", "why not": _line(error)}
    return {
        "method": name,
        "dense / dense": ratio(seconds["dense"], seconds["dense again"]),
        "method / dense": ratio(seconds[name], seconds["dense"]),
        "ms, dense": round(1000 * min(seconds["dense"]), 3),
        "why not": "",
    }


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
