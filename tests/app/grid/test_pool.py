"""The pool of warm processes: the same digits as one after another, and nobody falls with a process that dies."""

import os
import signal
import time

import pytest
from grids import GRID, TINY

from sparsebench.app.grid.cells import varying
from sparsebench.app.process import placement as module
from sparsebench.app.process.console import Prefixed
from sparsebench.app.process.placement import places


def test_the_same_digits_as_one_after_another(bench, reference):
    answer = bench.train(
        *GRID, "hydra/launcher=pool", "hydra.launcher.workers=2", "hydra.launcher.threads=1", "progress=auto"
    )
    assert answer.code == 0, answer.err
    assert bench.results() == reference
    assert "2 processes of 1 thread each" in answer.out
    for name in ("rigl seed=0", "rigl seed=1", "static seed=0", "static seed=1"):
        assert f"[method={name}] epoch 2/2  " in answer.out


def test_a_process_that_dies_takes_one_cell_with_it_and_that_one_is_tried_again(bench, reference):
    process = bench.start("train", "-m", *TINY, *GRID, "hydra/launcher=pool", "trainer.save_steps=3")
    bench.wait_for("run.lock")
    killed = int((next(bench.outputs.rglob("run.lock"))).read_text().split()[1])
    os.kill(killed, signal.SIGKILL)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, out + err
    assert bench.results() == reference


def test_ctrl_c_leaves_every_run_ready_to_continue(bench):
    command = ["train", "-m", *TINY, *GRID, "hydra/launcher=pool", "trainer.save_steps=3", "trainer.max_epochs=5000"]
    process = bench.start(*command)
    bench.wait_for("single.ckpt", 2)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "sparsebench: interrupted; repeat the command to continue\n"
    assert not list(bench.outputs.rglob("failed.txt"))
    time.sleep(0.1)
    status = bench.run("status")
    assert "4 runs: 2 interrupted, 2 waiting" in status.out


def test_how_a_machine_is_divided(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(module, "visible_gpus", list)
    assert [(p.threads, p.gpus) for p in places()] == [(1, None)] * 16
    assert [p.threads for p in places(threads=4)] == [4] * 4
    assert [p.threads for p in places(workers=2)] == [8] * 2
    assert [p.threads for p in places(devices=2)] == [1] * 8
    assert [p.cores for p in places(threads=8, bind=True)] == [tuple(range(8)), tuple(range(8, 16))]
    monkeypatch.setattr(module, "visible_gpus", lambda: ["0", "1", "2", "3"])
    assert [(p.threads, p.gpus) for p in places()] == [(4, "0"), (4, "1"), (4, "2"), (4, "3")]
    assert [p.gpus for p in places(per_gpu=2)] == ["0", "1", "2", "3"] * 2
    assert [p.gpus for p in places(devices=2)] == ["0,1", "2,3"]
    with pytest.raises(ValueError, match=r"hydra\.launcher\.workers=0 is impossible"):
        places(workers=0)


def test_names_of_cells_are_what_differs():
    jobs = [["model=mlp", "method=set", "seed=0", "rerun=false"], ["model=mlp", "method=set", "seed=1", "rerun=false"]]
    assert varying(jobs) == ["seed=0", "seed=1"]
    assert varying(jobs[:1], first=3) == ["run 3"]


def test_lines_are_whole_and_have_a_prefix(capsys):
    import sys

    stream = Prefixed(sys.stdout, "[a] ")
    stream.write("one")
    assert capsys.readouterr().out == ""
    stream.write(" two\nthree\n\nfour")
    assert capsys.readouterr().out == "[a] one two\n[a] three\n\n"
    assert not stream.isatty()
