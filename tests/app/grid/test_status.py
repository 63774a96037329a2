"""`sparsebench status` reads folders, and says what became of every cell."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest
from support import environment_of

from sparsebench.app.cli.status import main as status
from sparsebench.app.grid.status import Standing, standings, time_left
from sparsebench.runs.activity import Busy
from sparsebench.runs.folder import RunFolder


def cell(root, name, **files):
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 0\n")
    for file, text in files.items():
        (folder / file.replace("_", ".")).write_text(text)
    return folder


@pytest.fixture
def grid(tmp_path):
    """A grid with a cell in every state; returns its folder."""
    root = tmp_path / "outputs"
    cell(root, "runs/a,seed=0--1", DONE="", result_json=json.dumps({"test_accuracy": 0.5, "seconds": 100.0}))
    cell(root, "runs/b,seed=0--2", failed_txt="ValueError: too\nmany lines\n")
    half = {"stage": "cycle1", "step": 30, "steps": 60, "first_step": 10, "val_accuracy": 0.25}
    RunFolder(cell(root, "runs/c,seed=2--3")).write_heartbeat(**half, train_began=time.time() - 40)
    cell(root, "runs/d,seed=0--4", stopped_txt="Stopped: hopeless\n")
    RunFolder(cell(root, "runs/e,seed=0--5")).write_heartbeat(
        **half, train_began=time.time() - 40, began=time.time() - 50
    )
    cells = [{"folder": f"{name},seed=0--9", "overrides": []} for name in ("w", "x")]
    manifest = {"launched": 0, "pid": 1, "host": "elsewhere", "cells": cells}
    (root / "runs" / "grid-01234567.json").write_text(json.dumps(manifest))
    return root


def test_every_state_is_told(grid, capsys):
    with RunFolder(grid / "runs/e,seed=0--5").hold():
        status([str(grid)])
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("7 runs: 1 running, 1 failed, 1 stopped, 1 interrupted, 2 waiting, 1 done; about ")
    assert out[1].startswith("running  runs/e,seed=0  cycle1 50 %  25.00 %  0:50  1:00  process ")
    assert out[2] == "failed  runs/b,seed=0  ValueError: too"
    assert out[3] == "stopped  runs/d,seed=0  Stopped: hopeless"
    assert out[4] == "interrupted  runs/c,seed=2  cycle1 50 %  25.00 %  repeat the command to continue"
    assert out[5:7] == ["waiting  runs/w,seed=0", "waiting  runs/x,seed=0"]
    assert out[7] == "done  runs/a,seed=0  50.00 %  1:40"


def test_runs_of_one_name_are_told_apart(tmp_path, capsys):
    for number, rate in enumerate((0.1, 0.2)):
        RunFolder(tmp_path / f"rigl--0000000{number}").write_config({"optimizer": {"lr": rate}, "name": str(number)})
    RunFolder(tmp_path / "set--00000000").write_config({"optimizer": {"lr": 0.3}})
    status([str(tmp_path)])
    assert capsys.readouterr().out.splitlines()[1:] == [
        "waiting  rigl optimizer.lr=0.1",
        "waiting  rigl optimizer.lr=0.2",
        "waiting  set",
    ]


def test_json_for_programs(grid, capsys):
    status([str(grid), "--json"])
    seen = json.loads(capsys.readouterr().out)
    assert seen["counts"] == {"failed": 1, "stopped": 1, "interrupted": 2, "waiting": 2, "done": 1}
    assert seen["left"] is None
    assert len(seen["cells"]) == 7


def test_time_left_of_a_grid():
    run = {"name": "", "state": "running"}
    both = [Standing(**run, seconds=10.0, left=30.0), Standing(**run, seconds=20.0, left=20.0)]
    assert time_left(both) == 30.0
    waiting = [Standing(name="", state="waiting")] * 3
    assert time_left([*both, *waiting]) == pytest.approx((50 + 3 * 40) / 2)
    assert time_left(waiting) is None
    assert time_left([Standing(**run)]) is None


def test_a_run_elsewhere_lives_as_long_as_it_gives_signs(grid):
    folder = grid / "runs/c,seed=2--3"
    sign = {**RunFolder(folder).heartbeat(), "host": "elsewhere", "updated": time.time()}
    (folder / "running.json").write_text(json.dumps(sign))
    assert RunFolder(folder).is_busy()
    with pytest.raises(Busy, match="is in use"), RunFolder(folder).hold(wait=False):
        pass
    os.utime(folder / "running.json", (time.time() - 1000,) * 2)  # the disk's clock counts, not that of the writer
    assert not RunFolder(folder).is_busy()


def test_the_lock_dies_with_its_holder(tmp_path):
    code = f"""
import os, pathlib, signal
from sparsebench.runs.folder import RunFolder
with RunFolder(pathlib.Path({str(tmp_path)!r}) / "run").hold():
    print("held", flush=True)
    signal.pause()
"""
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert RunFolder(folder).is_busy()
        assert (folder / "run.lock").read_text() == f"process {process.pid} on {socket.gethostname()}\n"
        with pytest.raises(Busy), RunFolder(folder).hold(wait=False):
            pass
        process.kill()
    assert not RunFolder(folder).is_busy()
    with RunFolder(folder).hold(wait=False) as held:
        assert held.first
    assert os.listdir(folder) == []


def test_runs_that_divide_their_work_are_joined(tmp_path):
    run = RunFolder(tmp_path)
    with run.hold(join=True) as first, run.hold(wait=False, join=True) as second:
        assert (first.first, second.first) == (True, False)
        assert run.is_busy()
    assert os.listdir(tmp_path) == []


def test_watching_ends_when_nothing_runs(grid, capsys):
    status([str(grid), "--watch"])
    assert "7 runs" in capsys.readouterr().out


def test_nothing_heavy_is_imported_and_thousands_of_runs_are_read(tmp_path):
    for number in range(1000):
        cell(tmp_path, f"runs/a,seed={number}--{number}", DONE="", result_json='{"test_accuracy": 0.5}')
    began = time.monotonic()
    assert [s.name for s in standings(tmp_path)][:3] == [f"runs/a,seed={n}--{n}" for n in range(3)]
    assert time.monotonic() - began < 5
    code = (
        "import sys; from sparsebench.app.main import main; main(['status', sys.argv[1], '--json']);"
        "assert not {'torch', 'lightning', 'hydra', 'numpy'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=True, stdout=subprocess.DEVNULL, env=environment_of()
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is not a folder"),
        (["."], "holds no run"),
        ([".", "--every", "0"], "--every 0 is impossible"),
    ],
)
def test_wrong_words(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        status(arguments)
    assert message in capsys.readouterr().err
