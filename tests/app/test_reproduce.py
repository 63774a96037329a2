"""``sparsebench reproduce``: lists, measures once, resumes after a kill, and writes verdicts."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from sparsebench.app.cli import reproduce
from sparsebench.app.reproduction import pace as pace_module
from sparsebench.app.reproduction.cells import select
from sparsebench.app.reproduction.pace import NoPace, Pace

RECIPE = {
    "preset": "quickstart", "batch": 128, "optimizer": None, "lr": 0.1, "momentum": None, "nesterov": None,
    "weight_decay": 0.0, "decays": "all", "schedule": "cosine", "epochs": 40, "update": "none", "split": "random",
    "checkpoint": "last", "measure": "test_accuracy", "n": 5, "margin": 60.0, "deviations": ["a toy"],
}  # fmt: skip
SMALL = ["method=static", "model=mlp", "model.hidden=[8]", "trainer.accelerator=cpu", "progress=none"]


def entry(name, **changes):
    return {
        "id": name, "paper": "set", "arxiv": None, "table": "none", "method": "static", "model": "mlp",
        "dataset": "digits", "sparsity": 0.9, "metric": "top1", "value": 30.0, "std": None, "seeds": 5, "epochs": 40,
        "train_flops_ratio": None, "inference_flops_ratio": None, "evidence": "read", "protocol": "toy",
        "error": 20.0, "error_kind": "std", "recipe": RECIPE, "overrides": SMALL, **changes,
    }  # fmt: skip


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A registry of two tiny cells, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "registry.yaml"
    broken = entry("toy-broken", overrides=["method=given", *SMALL[1:]])
    document = {"recipes": {"toy": RECIPE}, "entries": [broken, entry("toy-static")]}
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def test_the_list_goes_on_where_a_preset_cannot_be_timed(registry, tmp_path, capsys, monkeypatch):
    asked = []

    def seconds(cell, steps):
        asked.append(cell.id)
        if cell.id == "toy-broken":
            raise NoPace("no data here")
        return 0.6 / 40

    monkeypatch.setattr(pace_module, "_seconds_per_step", seconds)
    arguments = ["toy-*", "--list", "--registry", str(registry), "--output-root", str(tmp_path / "out")]
    monkeypatch.setattr(reproduce, "cell_config", lambda cell, root: config_of(cell, root))
    reproduce.main(arguments)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "toy-broken  30.00 +- 20 (std)  claimed  0/5 runs, cannot be timed: no data here"
    assert lines[3].startswith("toy-static  30.00 +- 20 (std)  claimed  0/5 runs, ")
    assert lines[3].endswith("min each")
    assert lines[4].startswith("2 cells, 5 seeds: ")
    assert lines[4].endswith("without 1 that cannot be timed")
    asked.clear()
    reproduce.main(arguments)
    assert asked == ["toy-broken"], "what was measured is remembered, a failure is not"
    known = json.loads((tmp_path / "cache" / "sparsebench" / "pace.json").read_text(encoding="utf-8"))
    assert [key.partition(" on ")[0] for key in known] == ["quickstart static"]


def config_of(cell, root):
    """The configuration of either toy cell: ``given`` alone needs masks, and is here only to be refused."""
    from sparsebench.app.config.compose import compose_config

    overrides = [f"experiment={cell.recipe.preset}", *SMALL, f"output_root={root}"]
    config = compose_config(overrides)
    return {**config, "choices": {**config["choices"], "method": cell.overrides[0].partition("=")[2]}}


def test_a_damaged_cache_is_measured_anew(registry, tmp_path, monkeypatch):
    cache = tmp_path / "pace.json"
    cache.write_text('{"a": "b", ', encoding="utf-8")
    monkeypatch.setattr(pace_module, "_seconds_per_step", lambda cell, steps: 1.0)
    (cell,) = select("toy-static", registry)
    config = config_of(cell, tmp_path)
    said = []
    assert Pace(cache, said.append).seconds(cell, config, {}) > 0
    assert said == ["sparsebench: measuring the pace of quickstart (static)"]
    monkeypatch.setattr(pace_module, "_seconds_per_step", lambda cell, steps: pytest.fail("measured twice"))
    assert Pace(cache).seconds(cell, config, {}) > 0
    assert Pace(cache).seconds(cell, config, {0: {"seconds": 4.0}, 1: {"seconds": 6.0}}) == 5.0


def test_an_unknown_preset_is_refused_by_its_name(tmp_path):
    path = tmp_path / "registry.yaml"
    wrong = {**RECIPE, "preset": "quickstat"}
    document = {"recipes": {"toy": wrong}, "entries": [entry("toy-static", recipe=wrong)]}
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(ValueError, match=r"entry toy-static: preset 'quickstat' is unknown \(did you mean 'quickst"):
        select("*", path)


def command(registry, tmp_path, seeds):
    return [
        sys.executable, "-m", "sparsebench", "reproduce", "toy-static", "--registry", str(registry),
        "--seeds", str(seeds), "--output-root", str(tmp_path / "out"), "--output", str(tmp_path / "verdict"),
        "--commit", "abc",
    ]  # fmt: skip


def test_it_resumes_after_kill_9_and_writes_its_verdict(registry, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    first = subprocess.Popen(
        command(registry, tmp_path, 3), env=environment, start_new_session=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (done := sorted((tmp_path / "out").glob("*/*/DONE"))) and time.monotonic() < deadline:
        assert first.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert 1 <= len(done) < 3
    results = {path.parent.name: (path.parent / "result.json").stat().st_mtime_ns for path in done}

    again = subprocess.run(
        command(registry, tmp_path, 3), env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert again.returncode == 0, again.stderr
    for name, written in results.items():
        assert next((tmp_path / "out").glob(f"*/{name}/result.json")).stat().st_mtime_ns == written, "not run twice"
    assert len(list((tmp_path / "out").glob("*/*/DONE"))) == 3
    assert again.stdout.splitlines()[-2].startswith("reproduced  toy-static: ours ")

    document = json.loads((tmp_path / "verdict.json").read_text(encoding="utf-8"))
    (row,) = document["rows"]
    assert (row["cell"], row["n"], row["seeds"], len(row["ours"])) == ("toy-static", 3, [0, 1, 2], 3)
    assert row["hardware"]
    assert row["commit"] == document["about"]["commit"] or row["commit"] == "abc"
    assert f"(n = 3, {row['commit']}, {row['hardware']})" in row["tier"]
    text = (tmp_path / "verdict.md").read_text(encoding="utf-8")
    assert "| `toy-static` | 30.00 ± 20 (std) |" in text
    assert "- `quickstart`: a toy" in text
