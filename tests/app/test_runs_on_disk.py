"""A run on disk: finished runs are not repeated, interrupted ones continue bit for bit, grids outlive failing cells."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from support import disk_of, environment_of

TIMES = {"seconds", "images_per_second", "peak_memory_mb"}
FILES = ["DONE", "config.yaml", "final.pt", "masks.pt", "metrics.csv", "result.json", "single.pt"]


def result_of(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def without_times(result: dict) -> dict:
    return {key: value for key, value in result.items() if key not in TIMES}


def the_run(outputs: Path) -> Path:
    (done,) = outputs.rglob("DONE")
    return done.parent


def test_a_run_and_what_it_leaves(cli, tiny, outputs):
    answer = cli("train", *tiny, "method=rigl")
    assert (answer.code, answer.err) == (0, "")
    folder = the_run(outputs)
    assert folder.name.startswith("rigl-mlp-digits-sparsity0.5-")
    assert [name for name in disk_of(folder) if not name.endswith(".lock")] == FILES

    result = result_of(folder)
    assert folder.name.endswith(result["config_hash"])
    assert result["steps"] == 16
    assert result["epochs"] == 2
    assert result["sparsity"] == pytest.approx(0.5)
    assert result["sparsity_target"] == 0.5
    assert result["active_weights"] == round(0.5 * result["prunable_weights"])
    assert 0 < result["train_flops_ratio"] < 1
    assert 0 < result["inference_flops_ratio"] < 1

    weights = torch.load(folder / "final.pt", weights_only=True)
    masks = torch.load(folder / "masks.pt", weights_only=True)
    assert all(not weights[name][~mask].any() for name, mask in masks.items())
    assert yaml.safe_load((folder / "config.yaml").read_text())["method"]["_target_"].endswith("RigL")
    assert (folder / "metrics.csv").read_text().count("\n") == 4


def test_a_finished_run_is_not_repeated_unless_asked(cli, tiny, outputs):
    cli("train", *tiny)
    folder = the_run(outputs)
    before = {name: (folder / name).stat().st_mtime_ns for name in FILES}
    answer = cli("train", *tiny)
    assert answer.code == 0
    assert f"{folder.relative_to(outputs.parent)} is finished (rerun=true trains again)" in answer.out
    assert "test accuracy" in answer.out
    assert {name: (folder / name).stat().st_mtime_ns for name in FILES} == before

    first = result_of(folder)
    assert cli("train", *tiny, "rerun=true").code == 0
    assert (folder / "DONE").stat().st_mtime_ns > before["DONE"]
    assert (folder / "single.pt").stat().st_mtime_ns > before["single.pt"]
    assert without_times(result_of(folder)) == without_times(first)


def test_rerun_begins_anew_after_an_interruption_too(cli, tiny, outputs, monkeypatch):
    monkeypatch.setattr("sparsebench.engine.callbacks.monitors.LossGuard.on_train_batch_end", stop_at(10))
    assert cli("train", *tiny, "trainer.save_steps=3").code != 0
    monkeypatch.undo()
    (checkpoint,) = outputs.rglob("single.ckpt")
    steps = []
    monkeypatch.setattr(
        "sparsebench.engine.callbacks.monitors.LossGuard.on_train_batch_end",
        lambda self, trainer, *rest: steps.append(trainer.global_step),
    )
    assert cli_again(cli, tiny, outputs.parent, monkeypatch, "rerun=true") == 0
    assert steps[0] == 1
    assert not checkpoint.exists()


def cli_again(cli, tiny, folder, monkeypatch, *extra):
    monkeypatch.chdir(folder)  # monkeypatch.undo() has led out of it
    return cli("train", *tiny, "trainer.save_steps=3", *extra).code


def stop_before_row(last):
    def log_metrics(self, metrics, step=None):
        if step == last and "train_loss" in metrics:
            raise FloatingPointError("stopped by the test")

    return log_metrics


def stop_at(step):
    def on_train_batch_end(self, trainer, *rest):
        if trainer.global_step == step:
            raise FloatingPointError("stopped by the test")

    return on_train_batch_end


@pytest.mark.parametrize("stopped", ["mid-epoch", "after an epoch", "before an epoch is logged"])
@pytest.mark.parametrize("method", ["rigl", "dst_ee"])
def test_a_failed_run_continues_and_equals_one_that_did_not_fail(cli, tiny, outputs, monkeypatch, method, stopped):
    steps = 3 if stopped == "mid-epoch" else 100  # epochs end at 8 and 16
    command = ["train", *tiny, f"method={method}", f"trainer.save_steps={steps}"]
    assert cli(*command, "name=whole").code == 0
    with monkeypatch.context() as patch:
        if stopped == "before an epoch is logged":
            patch.setattr("sparsebench.engine.loggers.metrics_file.MetricsFile.log_metrics", stop_before_row(7))
        else:
            patch.setattr("sparsebench.engine.callbacks.monitors.LossGuard.on_train_batch_end", stop_at(11))
        answer = cli(*command, "name=broken")
    assert answer.code == 2
    assert "stopped by the test" in answer.err
    (reason,) = outputs.rglob("failed.txt")
    assert cli(*command, "name=broken").code == 0
    assert not reason.exists()
    whole, broken = (the_run(outputs / name) for name in ("whole", "broken"))
    assert {**without_times(result_of(whole)), "name": ""} == {**without_times(result_of(broken)), "name": ""}
    assert (whole / "metrics.csv").read_bytes() == (broken / "metrics.csv").read_bytes()


KILLED_AT_STEP_77 = """
import os, signal
from sparsebench.app.main import main
from sparsebench.engine.callbacks.monitors import LossGuard

def kill(self, trainer, *rest):
    if trainer.global_step == 77:
        os.kill(os.getpid(), signal.SIGKILL)

LossGuard.on_train_batch_end = kill
main()
"""


def test_killed_in_mid_epoch_and_launched_again_equals_uninterrupted(cli, tiny, tmp_path, outputs):
    command = ["train", *tiny, "method=rigl", "trainer.max_epochs=12", "trainer.save_steps=15"]
    assert cli(*command, "name=whole").code == 0

    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_STEP_77, *command, "name=killed"],
        cwd=tmp_path, env=environment_of(SPARSEBENCH_DATA=str(tmp_path)), capture_output=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert list(outputs.glob("killed/*/single.ckpt"))
    assert not list(outputs.glob("killed/*/DONE"))

    assert cli(*command, "name=killed").code == 0
    whole, killed = (the_run(outputs / name) for name in ("whole", "killed"))
    assert {**without_times(result_of(whole)), "name": ""} == {**without_times(result_of(killed)), "name": ""}
    assert (whole / "metrics.csv").read_bytes() == (killed / "metrics.csv").read_bytes()
    assert not [name for name in disk_of(killed) if name.endswith((".ckpt", ".partial"))]


def test_a_grid_goes_on_after_a_failing_cell(cli, tiny, outputs):
    command = ["train", "-m", *tiny, "method=static", "optimizer.lr=1e30,0.1"]
    answer = cli(*command)
    assert answer.code == 1
    assert "1 of the runs failed: FloatingPointError: the training loss is" in answer.err
    (done,) = outputs.rglob("DONE")
    (failed,) = outputs.rglob("failed.txt")
    assert done.parent != failed.parent

    before = done.stat().st_mtime_ns
    answer = cli(*command)
    assert answer.code == 1
    assert "is finished" in answer.out
    assert done.stat().st_mtime_ns == before


def test_dense_training_is_one_run_whatever_the_sparsity(cli, tiny, outputs):
    tiny.remove("sparsity=0.5")
    answer = cli("train", "-m", *tiny, "method=dense", "sparsity=0.5,0.9")
    assert answer.code == 0
    assert answer.out.count("is finished") == 1
    the_run(outputs)


def test_what_cannot_change_the_result_does_not_move_the_folder(cli, tiny, outputs):
    cli("train", *tiny)
    answer = cli("train", *tiny, "logger=none", "progress=lines", "trainer.save_seconds=1", "monitor=light")
    assert "is finished" in answer.out
    the_run(outputs)


def test_killed_between_the_last_step_and_the_saved_state(cli, tiny, outputs, monkeypatch):
    """What is continued then has metrics as well: nothing was left to train, and they were null."""
    from sparsebench.fits.state import State

    arguments = ["train", *tiny, "method=static", "trainer.save_steps=2", "trainer.save_seconds=0"]
    assert cli(*arguments, "output_root=whole").code == 0
    (whole,) = (path.parent for path in (outputs.parent / "whole").rglob("DONE"))

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(State, "save", die)
        assert cli(*arguments).code == 130
    assert list(outputs.rglob("single.ckpt"))
    assert cli(*arguments).code == 0
    assert without_times(result_of(the_run(outputs))) == without_times(result_of(whole))
    assert result_of(whole)["val_accuracy"] is not None
