"""Parts of the check: tests and benchmarks, in processes limited to their share of the time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

REPOSITORY = Path(__file__).resolve().parents[2]
GRACE = 5.0
"""Seconds between asking a process to end and killing it."""


@dataclass(frozen=True)
class Part:
    """Settings of a part: output folder, deadline, and whether it is a dry run."""

    name: str
    out: Path
    end: float
    dry: bool

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.end - time.monotonic()

    def row(self, **facts: Any) -> None:
        """Append a row."""
        with (self.out / "rows.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"part": self.name, "dry": self.dry, **facts}, default=str) + "\n")

    def start(self, name: str, command: Sequence[str], **environment: str) -> subprocess.Popen[bytes]:
        """Start a process of this repository in a separate group; its output is written to a file."""
        log = (self.out / f"{name}.log").open("wb")
        variables = {**os.environ, "NO_COLOR": "1", **environment}
        if self.dry:
            variables |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        with log:
            return subprocess.Popen(
                command, cwd=REPOSITORY, env=variables, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )


def wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Wait for a process; end it and its children when the time is over. Return None if it was ended."""
    try:
        return process.wait(max(0.1, seconds))
    except subprocess.TimeoutExpired:
        end(process)
        return None


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children, first with an interrupt, so that pytest still writes its counts."""
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        os.killpg(process.pid, sign)
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            continue


# -- tests ------------------------------------------------------------------------------------------------------------

PROMISES = "test_meets_the_budget or test_resumes or test_survives_bfloat16 or test_a_skipped_step"
"""The tests of every method's promises that a device can break."""


def tests(part: Part) -> int:
    """Run the tests marked ``gpu``: first for devices, then every method's promises, several processes at once.

    Returns:
        The number of failures.
    """
    if part.dry:
        jobs = {"devices": ["tests/gpu", "-m", "not slow and not gpu", "-k", "rigl-cpu or noticed or live_on"]}
    else:
        jobs = {"devices": ["tests/gpu", "-m", "gpu"]}
        names = sorted(path.stem for path in (REPOSITORY / "conf" / "method").glob("*.yaml"))
        width = max(1, min(6, (os.cpu_count() or 2) // 2 - 1))
        for number in range(width):
            own = " or ".join(f"[{name}-cuda]" for name in names[number::width])
            jobs[f"promises{number}"] = [
                "tests/methods/test_every_method.py", "-m", "gpu", "-k", f"({own}) and ({PROMISES})",
            ]  # fmt: skip
    running = {}
    for name, arguments in jobs.items():
        said = ["--junitxml", str(part.out / f"tests-{name}.xml"), "-p", "no:cacheprovider", "--tb=short"]
        running[name] = part.start(f"tests-{name}", [sys.executable, "-m", "pytest", *said, *arguments])
    failures = 0
    for name, process in running.items():
        code = wait(process, part.left - GRACE)
        counts = count(part.out / f"tests-{name}.xml")
        part.row(name=name, code=code, status="out of time" if code is None else "done", **counts)
        print(f"   {name}: {counts or 'no counts'}{' (out of time)' if code is None else ''}", flush=True)
        failures += code not in (0, 5, None) or (part.dry and code is None)  # 5: nothing was collected
    return failures


def count(file: Path) -> dict[str, int]:
    """Return tests, failures and skips of a JUnit file, or nothing if it was not written."""
    try:
        suites = list(ElementTree.parse(file).getroot().iter("testsuite"))
    except (OSError, ElementTree.ParseError):
        return {}
    return {key: sum(int(s.get(key, 0)) for s in suites) for key in ("tests", "failures", "errors", "skipped")}


# -- benchmarks -------------------------------------------------------------------------------------------------------

LOW = ["--dtype", "bfloat16", "--channels-last"]
BENCHES = {
    "updates-resnet50": ["updates", "--rounds", "5"],
    "overhead-vgg19-bf16": ["overhead", *LOW, "--rounds", "5", "--methods", "rigl,set,dst_ee,static,ml_linbreg"],
    "loop": ["loop", "--steps", "300", "--rounds", "3"],
    "input": ["input", "--batch", "512", "--rounds", "3"],
    "channels-vgg19-bf16": ["channels", *LOW, "--batch", "1024", "--keep", "0.5,0.3,0.1", "--rounds", "5",
                            "--multiple", "16"],
    "nm": ["nm"],
    "overhead-vgg19-fp32": ["overhead", "--rounds", "5", "--methods", "rigl,static"],
    "overhead-resnet50-bf16": ["overhead", "--model", "resnet50", *LOW, "--rounds", "5", "--methods", "rigl,static"],
    "overhead-rest": ["overhead", *LOW, "--rounds", "5"],
}  # fmt: skip
"""Name -> arguments of ``sparsebench bench``, the most important first: P2, P1, P10, P7, channels, 2:4."""
DRY = {
    "updates": ["updates", "--model", "resnet20", "--size", "32", "--classes", "10", "--rounds", "1"],
    "overhead": ["overhead", "--model", "mlp", "--size", "8", "--batch", "4", "--rounds", "1", "--methods", "rigl"],
    "loop": ["loop", "--steps", "10", "--rounds", "1"],
    "input": ["input", "--images", "256", "--rounds", "1"],
    "channels": ["channels", "--model", "vgg11", "--width", "0.1", "--batch", "4", "--keep", "0.5", "--rounds", "1",
                 "--warm-ups", "0"],
    "nm": ["nm", "--batch", "8", "--rounds", "1"],
}  # fmt: skip

_BENCH = """
import json, sys, time
from pathlib import Path
from sparsebench.app.cli.bench import main
end = time.monotonic() + float(sys.argv[1])
for name, arguments in json.loads(sys.argv[2]).items():
    if time.monotonic() > end:
        break
    try:
        main([*arguments, "--json", str(Path(sys.argv[3]) / f"bench-{name}.json")])
    except (SystemExit, Exception) as error:
        print(f"{name}: {type(error).__name__}: {error}", flush=True)
"""


def bench(part: Part) -> int:
    """Measure in one process, the most important first, until the time is over.

    Returns:
        The number of benchmarks without rows in a dry run; with a GPU, running out of time is not a failure.
    """
    chosen = {name: [*arguments, "--device", "cpu"] for name, arguments in DRY.items()} if part.dry else BENCHES
    command = [sys.executable, "-c", _BENCH, str(part.left - GRACE), json.dumps(chosen), str(part.out)]
    code, empty = wait(part.start("bench", command), part.left - GRACE), 0
    for name in chosen:
        file = part.out / f"bench-{name}.json"
        rows = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []
        part.row(name=name, status="done" if rows else "not measured", code=code, rows=rows)
        print(f"   {name}: {len(rows)} rows", flush=True)
        empty += not rows
    return empty if part.dry else 0


def report(out: Path) -> None:
    """Write the tables of all runs, finished or not, with published values."""
    for form, name in (("markdown", "report.md"), ("json", "report.json")):
        command = [sys.executable, "-m", "sparsebench", "report", str(out / "runs"), "--format", form]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        (out / name).write_text(done.stdout or done.stderr, encoding="utf-8")
