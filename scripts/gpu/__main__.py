"""Test and measure everything on a GPU within minutes; see docs/guides/gpu.md."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

from needs import missing, say_missing
from parts import Part, bench, report, tests
from runs import train_queue

SHARES = {"tests": 0.30, "bench": 0.25, "dense94": 0.12, "protocol": 0.31}
"""Shares of the time, one part after another; unused time of a part goes to the next."""


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
    given = parse()
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if lacking := missing(given.dry):
        print(say_missing(lacking), file=sys.stderr)
        return 2
    began = time.monotonic()
    end = began + 60 * given.minutes
    failed = False
    facts = machine(given.dry)
    (out / "machine.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(f"gpu_check: {facts['gpu'] or facts['cpu']}, torch {facts['torch']}, {given.minutes:g} minutes, {out}")
    for number, name in enumerate(given.parts):
        left = sum(SHARES[part] for part in given.parts[number:])
        limit = max(1.0, (end - time.monotonic() - 5) * SHARES[name] / left)
        part = Part(name, out, time.monotonic() + limit, given.dry)
        print(f"-- {name}: {limit:.0f} s", flush=True)
        work = {"tests": tests, "bench": bench}.get(name, train_queue)
        failed |= work(part) > 0
    report(out)
    print(f"gpu_check: {time.monotonic() - began:.0f} s; rows in {out / 'rows.jsonl'}, runs in {out / 'runs'}")
    return int(failed)


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
