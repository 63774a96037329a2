"""W&B, offline: one run per training run, whole rows, grouped, tagged, closed and marked, with artifacts on demand."""

import json

import pytest

wandb = pytest.importorskip("wandb")

from wandb_log import told  # noqa: E402

from sparsebench.engine.loggers import build_loggers, close_loggers  # noqa: E402
from sparsebench.engine.loggers.wandb import WandbRun, identity_of  # noqa: E402
from sparsebench.results.render.wandb_panels import STEP, specification  # noqa: E402
from sparsebench.runs.folder import RunFolder  # noqa: E402

SETTINGS = {"kind": "wandb", "project": "p", "entity": None, "tags": ["mine"], "offline": True}
CONFIG = {"name": "study", "choices": {"method": "rigl", "model": "mlp", "dataset": "digits", "recipe": "single"}}


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DISABLED"):
        monkeypatch.delenv(name, raising=False)


def name_of(item):
    return item.key or ".".join(item.nested_key)


def history(records):
    return [{name_of(item): json.loads(item.value_json) for item in r.history.item} for r in records["history"]]


def build(folder, **settings):
    folder.mkdir(parents=True, exist_ok=True)
    return build_loggers(folder, settings={**SETTINGS, **settings}, config=CONFIG, label="rigl,seed=0")


def test_what_one_step_logs_is_one_row(tmp_path):
    folder = tmp_path / "rigl--0123abcd"
    loggers = build(folder)
    for logger in loggers:
        logger.log_metrics({"val_accuracy": 0.5}, step=9)
        logger.log_metrics({"train_flops": 1e9}, step=9)
        logger.log_metrics({"val_accuracy": 0.75}, step=19)
    close_loggers(loggers, summary={"test_accuracy": 0.7, "density_per_layer": {"a": 1}})
    close_loggers(loggers, failed=True)  # nothing happens to what is closed
    records = told(folder)
    rows = [{key: row[key] for key in row if not key.startswith("_")} for row in history(records)]
    assert rows == [
        {"val_accuracy": 0.5, "train_flops": 1e9, STEP: 9},
        {"val_accuracy": 0.75, STEP: 19},
    ]
    run = records["run"][0].run
    attempt = RunFolder(folder).attempt()
    assert (run.run_id, run.run_group, run.job_type, run.project) == (f"0123abcd-{attempt}", "study", "train", "p")
    assert list(run.tags) == ["mine", "rigl", "mlp", "digits", "single"]
    summary = {name_of(item): item.value_json for r in records["summary"] for item in r.summary.update}
    assert json.loads(summary["test_accuracy"]) == 0.7
    assert "density_per_layer" not in summary
    assert records["exit"][0].exit.exit_code == 0


def test_the_id_is_that_of_the_folder_and_stages_have_their_own():
    assert identity_of("a,seed=0--0123abcd", None, "77aa00") == "0123abcd-77aa00"
    assert identity_of("a--0123abcd", "level 1", "77aa00") == "0123abcd-77aa00-level-1"
    assert identity_of("my run", None, "77aa00") == "my-run-77aa00"


def test_each_folder_and_each_attempt_is_a_run_of_its_own(tmp_path):
    def ids(folder):
        loggers = build(folder)
        stage = build_loggers(
            folder / "stages" / "cycle1", settings=SETTINGS, config=CONFIG, label="x", run=folder.name, stage="cycle1"
        )
        return loggers[1]._id, stage[1]._id

    one, other = tmp_path / "one" / "a--0123abcd", tmp_path / "other" / "a--0123abcd"
    first, elsewhere = ids(one), ids(other)
    assert first[1] == f"{first[0]}-cycle1"
    assert first[0] != elsewhere[0]
    assert ids(one) == first  # the same command continues
    RunFolder(one).clear()  # rerun=true
    assert ids(one)[0] != first[0]


@pytest.mark.parametrize("switch", [{"WANDB_MODE": "disabled"}, {"WANDB_DISABLED": "true"}, {"WANDB_DISABLED": "1"}])
def test_switches_of_wandb_itself(tmp_path, monkeypatch, switch):
    for name, value in switch.items():
        monkeypatch.setenv(name, value)
    assert [type(logger).__name__ for logger in build(tmp_path / "a", offline=None)] == ["MetricsFile"]
    assert not (tmp_path / "a" / "wandb").exists()


def test_artifacts_of_a_run_that_ended_well(tmp_path):
    for name, failed, wanted in (
        ("a--00000001", False, True),
        ("b--00000002", True, True),
        ("c--00000003", False, False),
    ):
        loggers = build(tmp_path / name, artifacts=wanted)
        for file in ("final.pt", "masks.pt", "config.yaml"):
            (tmp_path / name / file).write_text(file)
        close_loggers(loggers, failed=failed, summary=None if failed else {"test_accuracy": 0.5})
        records = told(tmp_path / name)
        found = [
            entry.path
            for r in records.get("request", [])
            for entry in r.request.log_artifact.artifact.manifest.contents
        ]
        found += [entry.path for r in records.get("artifact", []) for entry in r.artifact.manifest.contents]
        assert sorted(found) == (["config.yaml", "final.pt", "masks.pt"] if wanted and not failed else [])
        assert records["exit"][0].exit.exit_code == int(failed)


def test_only_the_first_rank_talks(tmp_path, monkeypatch):
    from lightning.pytorch.utilities import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", 1)
    loggers = build(tmp_path / "a--00000009")
    for logger in loggers:
        logger.log_metrics({"a": 1.0}, step=1)
    close_loggers(loggers, failed=True)
    assert not list(tmp_path.rglob("*.wandb"))
    assert not list(tmp_path.rglob("metrics.csv"))


def test_online_where_a_key_is_set_and_offline_otherwise(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr("sparsebench.engine.loggers.build._silent", lambda offline: made.append(offline))
    monkeypatch.setattr(WandbRun, "__init__", lambda self, **settings: made.append(settings["offline"]))
    build(tmp_path / "a", offline=None)
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    build(tmp_path / "b", offline=None)
    build(tmp_path / "c", offline=True)
    monkeypatch.setenv("WANDB_MODE", "offline")
    build(tmp_path / "d", offline=None)
    assert made == [True, True, False, False, True, True, True, True]


def test_a_grid_is_one_run_each_also_behind_one_that_fails(cli, tiny, outputs):
    answer = cli("train", "-m", *tiny, "logger=wandb", "logger.artifacts=true", "optimizer.lr=1e30,0.1", "name=study")
    assert answer.code == 1
    folders = [path for path in (outputs / "study").iterdir() if path.is_dir()]
    states = {}
    for folder in folders:
        records = told(folder)
        run = records["run"][0].run
        assert run.run_group == "study"
        assert folder.name.endswith(run.run_id.partition("-")[0])
        states[(folder / "DONE").exists()] = records["exit"][0].exit.exit_code
    assert states == {True: 0, False: 1}


def test_every_metric_of_the_dashboard_is_logged(cli, tiny, outputs):
    assert cli("train", *tiny, "logger=wandb", "method=rigl").code == 0
    (result,) = outputs.rglob("result.json")
    rows = history(told(result.parent))
    logged = set().union(*rows)
    for section in specification("p")["sections"]:
        for panel in section["panels"]:
            if panel["kind"] == "line":
                wanted = {panel["x"], *panel.get("y", ())}
                assert wanted <= logged, panel
                assert "y" not in panel or any(wanted - {"train_accuracy"} <= set(row) for row in rows), panel
            else:
                keys = panel.get("metrics") or [panel["x"], panel["y"]]
                assert set(keys) <= set(json.loads(result.read_text()))
    last = rows[-1]
    assert last["sparsity_target"] == last["sparsity"] == pytest.approx(0.5)
    assert last["drop_fraction"] == 0.0, "no update is due any more"
    assert 0 < next(row["drop_fraction"] for row in rows if "drop_fraction" in row) <= 0.3


def test_a_recipe_of_several_fits_is_one_run_and_its_stages(cli, tiny, outputs):
    assert cli("train", *tiny, "logger=wandb", "recipe=prune_finetune", "method=given").code == 0
    (result,) = outputs.rglob("result.json")
    stages = sorted(path for path in (result.parent / "stages").iterdir())
    assert len(stages) >= 2
    assert {told(stage)["run"][0].run.job_type for stage in stages} == {"stage"}
    (whole,) = (result.parent / "wandb").rglob("*.wandb")
    assert whole
    assert not (result.parent / "metrics.csv").exists()
