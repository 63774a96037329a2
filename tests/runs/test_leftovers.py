"""What killed processes leave behind is removed; what living ones write stays."""

import os
import subprocess
import sys

import pytest
from support import disk_of

from sparsebench.runs.folder import RunFolder
from sparsebench.runs.leftovers import remove_leftovers, tidy_finished
from sparsebench.runs.lock import take


@pytest.fixture
def dead():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_half_written_files_of_dead_processes_go(tmp_path, dead):
    (tmp_path / "stages" / "cycle1").mkdir(parents=True)
    mine = f"result.json.{os.getpid()}.partial"
    kept = [mine, "config.yaml", "single.pt", "stages/cycle1/metrics.csv", "held.lock"]
    gone = [f"final.pt.{dead}.partial", "single.ckpt.partial", f"stages/cycle1/metrics.csv.{dead}.partial", "left.lock"]
    for name in [*kept, *gone]:
        (tmp_path / name).write_text("")
    held = take(tmp_path / "held.lock")
    assert held is not None
    remove_leftovers(RunFolder(tmp_path))
    assert disk_of(tmp_path) == sorted(kept)
    held.release()


def test_a_finished_run_keeps_no_sign_of_life_of_a_killed_process(tmp_path, dead):
    run = RunFolder(tmp_path)
    run.finish({"steps": 1})
    run.write_heartbeat(step=1)
    for name in ("run.lock", f"metrics.csv.{dead}.partial"):
        (tmp_path / name).write_text("")
    with run.hold():  # by somebody at work: nothing is touched
        before = disk_of(tmp_path)
        tidy_finished(run)
        assert disk_of(tmp_path) == before
    run.write_heartbeat(step=1)
    tidy_finished(run)
    assert disk_of(tmp_path) == ["DONE", "result.json"]
