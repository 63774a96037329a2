"""Test and measure everything on a GPU within minutes; see docs/guides/gpu.md."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from host import RESERVE, Host
from needs import missing, say_missing
from parts import Part, bench, report, tests
from runs import train_queue

SHARES = {"tests": 0.25, "bench": 0.22, "dense94": 0.11, "protocol": 0.42}
"""Shares of the time, one part after another; unused time of a part goes to the next."""
LAST = 8.0
"""Seconds kept for the report of all runs."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("gpu_check", description=__doc__)
    parser.add_argument("--minutes", type=float, default=9.0, help="wall time of all parts together")
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu_check"), help="folder for rows, logs and runs")
    parser.add_argument("--dry", action="store_true", help="run on the CPU with tiny shapes, to test the script itself")
    parser.add_argument("--parts", default=",".join(SHARES), help=f"among {','.join(SHARES)}")
    given = parser.parse_args(arguments)
    given.parts = given.parts.split(",")
    if unknown := [name for name in given.parts if name not in SHARES]:
        parser.error(f"part {unknown[0]!r} is unknown: choose among {', '.join(SHARES)}")
    if given.minutes <= 0:
        parser.error(f"--minutes {given.minutes:g} is impossible: give minutes above 0")
    return given


def main() -> int:
    """Run the parts, each within its share; return 0 unless tests failed or nothing could run."""
    host = Host()
    began = host.now()
    given = parse()
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if lacking := missing(given.dry):
        print(say_missing(lacking), file=sys.stderr)
        return 2
    facts = machine(given.dry)
    (out / "machine.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(f"gpu_check: {facts['gpu'] or facts['cpu']}, torch {facts['torch']}, {given.minutes:g} minutes, {out}")
    for sign in (signal.SIGTERM, signal.SIGHUP):  # an early end leaves complete rows and no process
        signal.signal(sign, lambda number, frame: sys.exit(128 + number))
    failed = carry_out(given.parts, out, began + 60 * given.minutes, dry=given.dry, host=host)
    print(f"gpu_check: {host.now() - began:.0f} s; rows in {out / 'rows.jsonl'}, runs in {out / 'runs'}")
    return int(failed)


def carry_out(names: Sequence[str], out: Path, end: float, *, dry: bool, host: Host) -> bool:
    """Run parts one after another until a moment, and report; return whether one has failed."""
    failed = False
    for number, name in enumerate(names):
        left = sum(SHARES[part] for part in names[number:])
        limit = max(0.0, (end - LAST - host.now()) * SHARES[name] / left)
        part = Part(name, out, host.now() + limit, dry, host)
        print(f"-- {name}: {limit:.0f} s, the last {RESERVE:.0f} of them for ending", flush=True)
        try:
            failed |= {"tests": tests, "bench": bench}.get(name, train_queue)(part) > 0
        finally:
            part.close()
    report(out, host, end)
    return failed


def machine(dry: bool) -> dict[str, object]:
    """Describe the machine of the measurements."""
    import torch

    from sparsebench.cost.speed import hardware

    facts = hardware() | {"dry": dry, "python": platform.python_version(), "cudnn": torch.backends.cudnn.version()}
    if torch.cuda.is_available() and not dry:
        about = torch.cuda.get_device_properties(0)
        facts |= {"capability": f"{about.major}.{about.minor}", "gpu_memory_gib": round(about.total_memory / 2**30, 1)}
    elif dry:
        facts["gpu"] = None
    return facts


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
