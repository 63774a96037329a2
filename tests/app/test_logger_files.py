"""Loggers of real runs: TensorBoard and W&B offline, closed also when the run fails."""

import importlib.util
import json

import pytest
from wandb_log import told

needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="the package tensorboard is not installed"
)


@needs_tensorboard
def test_tensorboard_beside_the_csv(cli, tiny, outputs):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert cli("train", *tiny, "logger=tensorboard").code == 0
    (folder,) = outputs.rglob("tensorboard")
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert {"train_loss", "val_accuracy", "sparsity", "density/fc.weight"} <= set(tags)
    assert events.Scalars("sparsity")[-1].value == pytest.approx(0.5)
    assert (folder.parent / "metrics.csv").exists()


def keys_of(items):
    return {item.key or ".".join(item.nested_key) for item in items}


@pytest.mark.parametrize("fails", [False, True], ids=["success", "failure"])
def test_wandb_offline(cli, tiny, outputs, monkeypatch, fails):
    wandb = pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    settings = ["logger=wandb", "method=rigl", *(["optimizer.lr=1e30"] if fails else [])]
    answer = cli("train", *tiny, *settings)
    assert answer.code == (2 if fails else 0)
    assert answer.err.count("\n") == int(fails)
    assert wandb.run is None, "the run is closed"

    (folder,) = outputs.rglob("wandb")
    assert list(folder.glob("offline-run-*")), "one offline folder per run"
    found = told(folder.parent)
    run = found["run"][0].run
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["sparsity"] == 0.5
    assert config["method"]["_target_"] == "sparsebench.methods.RigL"
    assert folder.parent.name.endswith(run.run_id.rpartition("-")[0]), "the same run again continues the same W&B run"
    assert found["exit"][0].exit.exit_code == int(fails)
    if not fails:
        logged = set().union(*(keys_of(record.history.item) for record in found["history"]))
        assert {"train_loss", "val_accuracy", "sparsity", "density/fc.weight"} <= logged
        summary = set().union(*(keys_of(record.summary.update) for record in found["summary"]))
        assert {"test_accuracy", "mask_digest"} <= summary
