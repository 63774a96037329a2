"""scripts/gpu_check: what it trains exists, what it lacks it says, what runs too long is ended."""

import ast
import json
import signal
import subprocess
import sys
import time

import pytest
import yaml
from support import REPOSITORY

from sparsebench.app.cli.bench import SUBJECTS
from sparsebench.app.cli.bench.options import PARSERS
from sparsebench.app.config.compose import compose_config
from sparsebench.app.config.tree import conf_dir

sys.path.insert(0, str(REPOSITORY / "scripts" / "gpu"))
import needs
import parts
import runs

PRINTS = "import time; print(1, flush=True); time.sleep(60)"


@pytest.mark.parametrize("name", [*runs.QUEUE, *runs.DENSE94])
def test_what_is_queued_composes(name):
    config = compose_config({**runs.QUEUE, **runs.DENSE94}[name])
    assert config["trainer"]["accelerator"] == "gpu"
    if name.split("-")[0] in ("vgg19", "resnet50") and "vr_pge" not in name:
        assert config["trainer"]["max_epochs"] == 160
        assert config["dataset"]["batch_size"] == 128
        assert name.split("-")[1] in yaml.safe_dump(config["choices"]["method"])
    if "vr_pge" in name:
        assert config["dataset"]["batch_size"] == 256


@pytest.mark.parametrize("arguments", [*parts.BENCHES.values(), *parts.DRY.values()], ids=lambda a: "-".join(a[:3]))
def test_benchmarks_take_their_arguments(arguments):
    assert arguments[0] in SUBJECTS
    PARSERS[arguments[0]]().parse_args(arguments[1:])


def test_overhead_names_methods_that_exist():
    from sparsebench.app.cli.bench.options import STEPPED

    assert set(STEPPED) <= {path.stem for path in (conf_dir() / "method").glob("*.yaml")}


def test_what_is_missing_is_one_line(monkeypatch):
    monkeypatch.setattr(needs.importlib.util, "find_spec", lambda name: None if name == "hydra" else object())
    said = needs.say_missing(needs.missing(dry=True))
    assert said.startswith("gpu_check: missing here: hydra-core")
    assert "\n" not in said


@pytest.mark.parametrize(
    ("package", "version", "said"),
    [
        ("torch", "2.10.1+cu130", "torch>=2.11 (2.10.1+cu130 is installed)"),
        ("hydra-core", "1.4.0.dev1", "hydra-core>=1.3,<1.4 (1.4.0.dev1 is installed)"),
        ("lightning", "2.5.6", "lightning>=2.6 (2.5.6 is installed)"),
        ("torch", "2.11.0", ""),
        ("hydra-core", "1.3.2", ""),
    ],
)
def test_versions_are_looked_at(package, version, said, monkeypatch):
    real = needs.importlib.metadata.version
    monkeypatch.setattr(needs.importlib.metadata, "version", lambda n: version if n == package else real(n))
    assert needs.missing(dry=True) == ([said] if said else [])


def part_of(tmp_path, seconds):
    return parts.Part("protocol", tmp_path, time.monotonic() + seconds, True)


def test_a_process_that_runs_too_long_is_ended(tmp_path):
    part = part_of(tmp_path, 60)
    process = part.start("sleeper", [sys.executable, "-c", PRINTS])
    until = time.monotonic() + 30
    while not (tmp_path / "sleeper.log").read_text() and time.monotonic() < until:
        time.sleep(0.05)
    assert not part.host.wait([process], 0.0)
    part.host.end([process])
    assert process.poll() is not None
    part.host.tell(process, signal.SIGTERM)  # of a process that is gone: nothing


def test_what_did_not_begin_stands_in_the_rows(tmp_path):
    part = part_of(tmp_path, 0.0)
    assert runs.train_queue(part) == 0
    part.close()
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [(row["name"], row["status"], row["dry"]) for row in rows] == [("digits-rigl", "not begun", True)]


def test_a_wrong_part_is_refused(tmp_path):
    command = [sys.executable, str(REPOSITORY / "scripts" / "gpu"), "--parts", "trainig", "--out", str(tmp_path / "o")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "'trainig' is unknown: choose among tests, bench, dense94, protocol" in done.stderr
    assert not (tmp_path / "o").exists()


OTHERS = {"torchvision", "timm", "PIL", "wandb", "rich", "optuna", "pandas", "pyarrow", "scipy", "matplotlib"}
"""Packages that a GPU machine may lack: imported where they are used, never with a module."""


def test_no_module_imports_packages_that_the_check_does_not_require():
    found = []
    for path in sorted((REPOSITORY / "sparsebench").rglob("*.py")):
        for statement in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in statement.names] if isinstance(statement, ast.Import) else []
            names += [statement.module or ""] if isinstance(statement, ast.ImportFrom) else []
            found += [path.name for name in names if name.partition(".")[0] in OTHERS]
    assert set(found) == {"console.py", "plan.py"}, "tables for terminals, which are imported for a terminal only"
