"""A grid finishes: cells are skipped, resumed, retried and taken over, and one that fails takes no other with it."""

import json
import os
import re
import signal
import threading
from pathlib import Path

import pytest
import yaml
from grids import GRID, TINY, essence, kill


def test_the_grid_equals_hydras_own(cli, bench, reference):
    answer = cli("train", "-m", *TINY, *GRID)
    assert (answer.code, answer.err) == (0, "")
    assert "4 runs: 0 finished, 4 to do" in answer.out
    assert bench.results() == reference

    before = bench.moments()
    answer = cli("train", "-m", *TINY, *GRID)
    assert answer.code == 0
    assert "4 runs: 4 finished, 0 to do" in answer.out
    assert answer.out.count("is finished") == 4
    assert bench.moments() == before

    manifest, *folders = sorted((bench.outputs / "runs").iterdir())
    assert manifest.name.startswith("grid-")
    assert len(folders) == 4
    assert {cell["folder"] for cell in json.loads(manifest.read_text())["cells"]} == {f.name for f in folders}


def test_killed_half_way_and_launched_again_equals_uninterrupted(bench, reference):
    command = ["train", "-m", *TINY, *GRID, "trainer.save_steps=3"]
    process = bench.start(*command)
    bench.wait_for("DONE", 2)
    bench.wait_for("single.ckpt")
    kill(process)
    before = bench.moments()
    assert 2 <= len(before) < 4, "the grid ended before it could be killed"
    (left,) = bench.outputs.rglob("running.json")
    status = bench.run("status", "--json")
    seen = json.loads(status.out)["counts"]
    assert seen["done"] == len(before)
    assert seen.get("interrupted") == 1
    assert seen.get("waiting", 0) == 3 - len(before)

    answer = bench.run(*command)
    assert answer.code == 0, answer.err
    assert f"4 runs: {len(before)} finished, {4 - len(before)} to do" in answer.out
    assert bench.results() == reference
    after = bench.moments()
    assert {name: after[name] for name in before} == before
    assert not left.exists()


def test_two_launches_at_once_share_the_cells(bench, reference):
    both = [bench.start("train", "-m", *TINY, *GRID) for _ in range(2)]
    answers = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    assert bench.results() == reference
    text = "".join(out for out, _ in answers)
    assert text.count("test accuracy") >= 4
    assert not list(bench.outputs.rglob("*.partial"))
    assert not list(bench.outputs.rglob("running.json"))


def test_a_cell_is_taken_over_from_a_launch_that_dies(bench, cli):
    command = ["train", "-m", *TINY, "method=rigl", "trainer.max_epochs=60"]
    process = bench.start(*command, "seed=0", "trainer.save_steps=3")
    bench.wait_for("single.ckpt")
    os.killpg(process.pid, signal.SIGSTOP)  # it is at work, and comes no further
    killer = threading.Timer(4, lambda: os.killpg(process.pid, signal.SIGKILL))
    killer.start()
    answer = cli(*command, "seed=0,1")
    killer.join()
    process.communicate()
    assert answer.code == 0, answer.out + answer.err
    assert len(bench.results()) == 2


def test_failed_cells_are_named_and_tried_again(cli, bench, monkeypatch):
    command = ["train", "-m", *TINY, "method=static", "optimizer.lr=1e30,0.1,0.2"]
    answer = cli(*command)
    assert answer.code == 1
    (failed,) = bench.outputs.rglob("failed.txt")
    assert (
        f"sparsebench: failed: {failed.parent.relative_to(bench.folder)}: FloatingPointError: the training"
        in answer.err
    )
    assert answer.err.count("sparsebench: failed:") == 1
    assert "1 of the runs failed: FloatingPointError" in answer.err
    assert len(bench.results()) == 2

    status = cli("status")
    assert "3 runs: 1 failed, 2 done" in status.out
    assert "FloatingPointError: the training loss is" in status.out

    monkeypatch.setattr("sparsebench.engine.callbacks.monitors.LossGuard.on_train_batch_end", lambda *_: None)
    assert cli(*command).code == 0
    assert not failed.exists()


def test_impossible_cells_are_refused_before_anything_starts(cli, bench):
    answer = cli("train", "-m", *TINY, "sparsity=0.5,1.5", "method=static")
    assert answer.code == 1
    assert "1 of the runs failed: ValueError: sparsity=1.5 is impossible" in answer.err
    assert len(bench.results()) == 1

    answer = cli("train", "-m", *TINY, "method=static", "seed=0,1", "run_dir=one")
    assert answer.code == 1
    assert "run_dir=one belongs to another cell" in answer.err


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("dataset.batch_size=16,0", "failed: dataset.batch_size=0: ValueError: dataset.batch_size=0 is impossible"),
        ("optimizer.lr=0.1,inf", "failed: optimizer.lr=inf: ValueError: optimizer.lr=inf is not a finite number"),
        ("start_from=null,nowhere.pt", "failed: start_from=nowhere.pt: ValueError: start_from=nowhere.pt does not"),
        ("distribution=erk,table", "failed: distribution=table: distribution.path is missing and has no default"),
    ],
)
def test_a_cell_that_cannot_be_composed_fails_alone(cli, bench, bad, said):
    tiny = [part for part in TINY if part.partition("=")[0] not in bad]  # a key may be given once
    answer = cli("train", "-m", *tiny, "method=static", bad)
    assert answer.code == 1, answer.err
    assert said in answer.err
    assert answer.err.count("sparsebench: failed:") == 1
    assert "Traceback" not in answer.err
    assert len(bench.results()) == 1


def test_a_grid_of_which_no_cell_can_be_composed_is_refused_in_one_line(cli, bench):
    answer = cli("train", "-m", *TINY, "method=static", "seed=0,1", "dataset.batch_size=0")
    assert answer.code == 2
    assert answer.err.splitlines() == [
        "sparsebench: error: dataset.batch_size=0 is impossible: choose a whole number of at least 1"
    ]


@pytest.mark.parametrize("sweeper", ["grid", "basic"])
def test_equal_cells_are_one_run_under_either_sweeper(cli, bench, sweeper):
    tiny = [part for part in TINY if not part.startswith("sparsity")]
    answer = cli("train", "-m", *tiny, "method=dense", "sparsity=0.5,0.9", f"hydra/sweeper={sweeper}")
    assert answer.code == 0
    assert answer.out.count("is finished") == 1
    assert len(bench.results()) == 1


def test_rerun_repeats_the_grid(cli, bench):
    command = ["train", "-m", *TINY, "method=static", "seed=0,1"]
    assert cli(*command).code == 0
    before, results = bench.moments(), bench.results()
    answer = cli(*command, "rerun=true")
    assert "2 runs: 0 finished, 2 to do" in answer.out
    assert all(bench.moments()[name] > moment for name, moment in before.items())
    assert bench.results() == results


def test_a_grid_may_come_in_batches_and_from_its_presets(cli, bench):
    answer = cli(
        "train", "-m", *TINY, "method=static", "+hydra.sweeper.params.seed='0,1,2'", "hydra.sweeper.max_batch_size=2"
    )
    assert answer.code == 0, answer.err
    assert len(bench.results()) == 3


def test_plan_launches_nothing(cli, bench):
    answer = cli("plan", "-m", *TINY, "method=rigl,static", "hydra/launcher=pool")
    assert answer.code == 0, answer.err
    assert not bench.outputs.exists()


@pytest.mark.slow
def test_several_processes_per_run(bench):
    command = ["method=rigl", "seed=0,1", "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
    answer = bench.train(*command)
    assert answer.code == 0, answer.err
    first, before = bench.results(), bench.moments()
    assert len(first) == 2
    folders = [path for path in (bench.outputs / "runs").iterdir() if path.is_dir()]
    assert len(folders) == 2
    assert all(yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["devices"] == 2 for folder in folders)

    assert "2 runs: 2 finished, 0 to do" in bench.train(*command).out
    assert (bench.moments(), bench.results()) == (before, first)

    pooled = bench.train(*command, "hydra/launcher=pool", "name=pooled", "progress=lines")
    assert pooled.code == 0, pooled.err
    assert bench.results("pooled") == first
    assert "[seed=0] epoch 2/2" in pooled.out
    assert sorted(path.name for path in bench.outputs.iterdir()) == ["pooled", "runs"]


def test_each_cell_is_composed_and_frozen_once_and_launched_by_its_folder(cli, bench, monkeypatch):
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    from sparsebench.app.config import compose
    from sparsebench.app.grid.job import Task

    counted = {"composed": 0, "frozen": 0}
    load, freeze, call = ConfigLoaderImpl.load_sweep_config, compose.freeze, Task.__call__
    jobs = []

    def count(name, function):
        def counting(*arguments):
            counted[name] += 1
            return function(*arguments)

        return counting

    def note(self, cfg):
        from hydra.core.hydra_config import HydraConfig

        jobs.append(list(HydraConfig.get().overrides.task))
        return call(self, cfg)

    monkeypatch.setattr(ConfigLoaderImpl, "load_sweep_config", count("composed", load))
    monkeypatch.setattr(compose, "freeze", count("frozen", freeze))
    monkeypatch.setattr(Task, "__call__", note)
    answer = cli("train", "-m", *TINY, "method=static", "seed=0,1")
    assert answer.code == 0, answer.err
    assert counted == {"composed": 2, "frozen": 2}
    assert jobs == [[f"cell=outputs/runs/{name}"] for name in sorted(bench.results())]
    lines = [line for line in answer.out.splitlines() if line.startswith(("sparsebench: 1/2", "sparsebench: 2/2"))]
    assert lines[0] == "sparsebench: 1/2  seed=0"
    assert re.fullmatch(r"sparsebench: 2/2  seed=1  about \d+:\d\d left", lines[1])


def test_a_frozen_cell_is_trained_by_its_folder(cli, bench):
    answer = cli("train", *TINY, "method=static", "run_dir='my run\\'s, folder'")
    assert answer.code == 0, answer.err
    folder = bench.folder / "my run's, folder"
    wanted = essence(folder)
    for path in folder.iterdir():
        if path.name != "config.yaml":
            path.unlink()
    assert "1 waiting" in cli("status", str(bench.folder)).out
    refused = cli("train", "cell='my run\\'s, folder'", "seed=3")
    assert refused.code == 2
    assert "is a frozen run, but seed=3 would change it" in refused.err
    answer = cli("train", "cell='my run\\'s, folder'")
    assert answer.code == 0, answer.err
    assert essence(folder) == wanted
    answer = cli("train", "cell=nowhere")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "nowhere/config.yaml cannot be read" in answer.err


def test_odd_names_reach_a_job_unchanged():
    from sparsebench.app.grid.loader import _value, override_for

    for name in ("a/b-1", "my run's, folder", "a=b,c", "[x]", "a\\'b\\", "ümlaut", "a b "):
        assert _value([override_for(Path(name))]) == name


@pytest.mark.parametrize("sweeper", ["", "grid", "basic"])
def test_what_fails_before_training_leaves_no_folder(cli, bench, sweeper):
    more = ["-m", "model.depth=3,4", f"hydra/sweeper={sweeper}"] if sweeper else ["model.depth=3"]
    answer = cli("train", *TINY, "method=static", *("+" + part if "depth" in part else part for part in more))
    assert answer.code in (1, 2)
    assert "has no option 'depth'" in answer.err
    assert not list(bench.outputs.rglob("config.yaml"))
    if sweeper == "grid":
        assert "failed: model.depth=3: ValueError: " in answer.err
    assert cli("clean", str(bench.folder)).code == 0


def test_clean_removes_what_failed_and_what_never_began(cli, bench):
    assert cli("train", "-m", *TINY, "method=static", "optimizer.lr=1e30,0.1").code == 1
    waiting = bench.outputs / "runs" / "w--01234567"
    waiting.mkdir()
    (waiting / "config.yaml").write_text("seed: 0\n")
    (failed,) = bench.outputs.rglob("failed.txt")

    (manifest,) = (bench.outputs / "runs").glob("grid-*.json")
    answer = cli("clean", "--yes")
    assert "1 run removed" in answer.out, "this process may come to the failed cell: its manifest says so"
    assert not waiting.exists()
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "pid": 2**22 + 1}))

    answer = cli("clean")
    assert answer.code == 0
    assert "failed  runs/static-mlp-digits-sparsity0.5-" in answer.out
    assert "FloatingPointError: the training loss is" in answer.out
    assert "nothing was removed; add --yes to remove these runs" in answer.out
    assert failed.exists()
    assert "1 run removed" in cli("clean", "--yes").out
    assert not failed.parent.exists()
    assert not manifest.exists()
    assert len(bench.results()) == 1
    assert "holds no run that failed" in cli("clean").out


def test_options_may_stand_between_overrides(cli, bench):
    answer = cli("train", *TINY, "method=static", "-m", "seed=0,1")
    assert answer.code == 0, answer.err
    assert len(bench.results()) == 2
    answer = cli("train", *TINY, "seed=0,1")
    assert answer.code == 2
    assert "seed=0,1 gives several values: add -m to train a run for each, or write seed=[0,1] for a list" in answer.err
    assert "seed=range(0,2) gives several values: add -m" in cli("train", *TINY, "seed=range(0,2)").err
