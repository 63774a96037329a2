"""Parts of the check: tests and benchmarks, in processes limited to their share of the time."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from host import REPOSITORY, RESERVE, Host


@dataclass
class Part:
    """Settings of a part, and the rows that it still has to write.

    Attributes:
        name: the part's name.
        out: output folder.
        end: the time at which it must have ended.
        dry: whether it is a dry run.
        host: clock and processes.
        owed: names that have no row yet; ``close`` writes one for each, however the part ends.
        started: its processes.
        begun: names whose process was started.
    """

    name: str
    out: Path
    end: float
    dry: bool
    host: Host = field(default_factory=Host)
    owed: list[str] = field(default_factory=list)
    started: list[Any] = field(default_factory=list)
    begun: set[str] = field(default_factory=set)

    @property
    def left(self) -> float:
        """Seconds until processes must begin to end."""
        return self.end - RESERVE - self.host.now()

    def row(self, name: str, **facts: Any) -> None:
        """Append a row as one whole line."""
        self.owed = [other for other in self.owed if other != name]
        line = json.dumps({"part": self.name, "dry": self.dry, "name": name, **facts}, default=str)
        with (self.out / "rows.jsonl").open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def start(self, name: str, command: Sequence[str], **environment: str) -> Any:
        """Start a process of this part."""
        dry = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"} if self.dry else {}
        self.begun.add(name.partition("-")[2] or name)
        process = self.host.start(command, self.out / f"{name}.log", {**environment, **dry})
        self.started.append(process)
        return process

    def close(self) -> None:
        """End all processes that are left, and write the rows that are missing."""
        self.host.end(self.started)
        for name in list(self.owed):
            self.row(name, status="cut short" if name in self.begun else "not begun")

    def names(self, names: Iterable[str]) -> None:
        """Say which rows the part will write."""
        self.owed = list(names)


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
    part.names(jobs)
    if part.left <= 0:
        return 0
    running = {}
    for name, arguments in jobs.items():
        said = ["--junitxml", str(part.out / f"tests-{name}.xml"), "-p", "no:cacheprovider", "--tb=short"]
        running[name] = part.start(f"tests-{name}", [sys.executable, "-m", "pytest", *said, *arguments])
    part.host.wait(list(running.values()), part.host.now() + part.left)
    over = [name for name, process in running.items() if process.poll() is None]
    part.host.end([running[name] for name in over])
    failures = 0
    for name, process in running.items():
        counts = count(part.out / f"tests-{name}.xml")
        late, code = name in over, process.poll()
        part.row(name, code=code, status="out of time" if late else "done", **counts)
        print(f"   {name}: {counts or 'no counts'}{' (out of time)' if late else ''}", flush=True)
        failed = counts.get("failures", 0) + counts.get("errors", 0) > 0
        failures += failed or (not late and code not in (0, 5)) or (part.dry and late)  # 5: nothing was collected
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
    "epochs-vgg19": ["epochs", "--model", "vgg19", "--images", "20000", "--rounds", "1", "--workers", "4"],
    "loop": ["loop", "--steps", "300", "--rounds", "3"],
    "input": ["input", "--batch", "512", "--rounds", "3"],
    "channels-vgg19-bf16": ["channels", *LOW, "--batch", "1024", "--keep", "0.5,0.3,0.1", "--rounds", "5",
                            "--multiple", "16"],
    "nm": ["nm"],
    "epochs-resnet20": ["epochs", "--images", "20000", "--rounds", "1", "--workers", "4"],
    "overhead-vgg19-fp32": ["overhead", "--rounds", "5", "--methods", "rigl,static"],
    "overhead-resnet50-bf16": ["overhead", "--model", "resnet50", *LOW, "--rounds", "5", "--methods", "rigl,static"],
    "overhead-rest": ["overhead", *LOW, "--rounds", "5"],
}  # fmt: skip
"""Name -> arguments of ``sparsebench bench``, the most important first: P2, P1, P3, P10, P7, channels, 2:4."""
DRY = {
    "updates": ["updates", "--model", "resnet20", "--size", "32", "--classes", "10", "--rounds", "1"],
    "overhead": ["overhead", "--model", "mlp", "--size", "8", "--batch", "4", "--rounds", "1", "--methods", "rigl"],
    "epochs": ["epochs", "--model", "mlp", "--size", "8", "--images", "160", "--batch", "8", "--every", "4",
               "--rounds", "1"],
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
    part.names(chosen)
    if part.left <= 0:
        return 0
    for name in chosen:  # rows of an earlier check in the same folder are not those of this one
        (part.out / f"bench-{name}.json").unlink(missing_ok=True)
    command = [sys.executable, "-c", _BENCH, str(part.left), json.dumps(chosen), str(part.out)]
    process = part.start("bench", command)
    part.host.wait([process], part.host.now() + part.left)
    part.host.end([process])
    empty = 0
    for name in chosen:
        rows = rows_of(part.out / f"bench-{name}.json")
        part.row(name, status="done" if rows else "not measured", code=process.poll(), rows=rows)
        print(f"   {name}: {len(rows)} rows", flush=True)
        empty += not rows
    return empty if part.dry else 0


def rows_of(file: Path) -> list[Any]:
    """Return the rows of a benchmark; none if it was ended before or while it wrote them."""
    try:
        return list(json.loads(file.read_text(encoding="utf-8"))["rows"])
    except (OSError, ValueError, KeyError):
        return []


def report(out: Path, host: Host, end: float) -> None:
    """Write the tables of all runs, finished or not, with published values."""
    for form, name in (("markdown", "report.md"), ("json", "report.json")):
        command = [sys.executable, "-m", "sparsebench", "report", str(out / "runs"), "--format", form]
        (out / name).write_text(host.run(command, end - host.now()), encoding="utf-8")
