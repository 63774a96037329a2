"""The schema of results: what runs write is in it, what is in it runs write, and old results are read under it."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import environment_of
from written_runs import write_run

from sparsebench.app.cli.compare import compare
from sparsebench.app.cli.report import read, variant
from sparsebench.app.main import main
from sparsebench.app.process.execute import result_of
from sparsebench.fits import State
from sparsebench.results.collect import collect
from sparsebench.results.curves import read_curves
from sparsebench.results.key import CYCLES, METRICS, PLACES, PLAN, REPORT, RESULT
from sparsebench.results.render.charts import picture
from sparsebench.results.render.columns import records
from sparsebench.results.schema import BY_NAME, FORMER, KEYS, describe, is_known, with_current_names
from sparsebench.runs.folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]
OLD = json.loads((ROOT / "tests" / "golden" / "results_0_1.json").read_text())
TINY = [
    "model=mlp", "model.hidden=[16]", "dataset=digits", "dataset.limit=128", "dataset.batch_size=16", "sparsity=0.5",
    "trainer.accelerator=cpu", "trainer.max_epochs=2", "progress=none",
]  # fmt: skip
LOOK = ["recipe.look.hessian=1", "recipe.look.recalibrate=false", "trainer.max_epochs=1"]
RUNS = {
    "single": [*TINY, "method=rigl", "every=3"],
    "mirror descent": [*TINY, "method=linbreg"],
    "channels": ["model=digits_cnn", *TINY[2:], "method=vr_pge"],
    "particles": [*TINY, *LOOK, "recipe=swamp", "recipe.particles=2"],
    "phases": [*TINY, "recipe=prune_finetune", "trainer.max_epochs=1"],
}


def written(root: Path) -> dict[str, set[str]]:
    """Return the names below a folder of runs, by place; those of parameters as ``PREFIX/*``."""
    found: dict[str, set[str]] = {RESULT: set(), METRICS: set(), CYCLES: set()}
    for path in root.rglob("result.json"):
        result = json.loads(path.read_text())
        found[RESULT] |= set(result)
        found[CYCLES] |= {name for cycle in result.get("cycles", ()) for name in cycle}
    for path in root.rglob("metrics.csv"):
        with path.open(newline="") as file:
            names = next(csv.reader(file))
        found[METRICS] |= {f"{name.partition('/')[0]}/*" if "/" in name else name for name in names}
    return found


def keys_at(place: str) -> set[str]:
    return {key.name for key in KEYS if place in key.place}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Return a folder with one real run of each kind."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SPARSEBENCH_DATA", str(folder / "data"))
        for overrides in RUNS.values():
            patch.setattr(sys, "argv", ["sparsebench"])
            main(["train", *overrides])
    return folder


@pytest.mark.parametrize("place", [RESULT, METRICS, CYCLES])
def test_runs_write_what_the_schema_says_and_nothing_else(root, place):
    names = written(root)[place]
    assert names - keys_at(place) == set(), "written, and not in the schema"
    assert keys_at(place) - names == set(), "in the schema, and never written"


def test_reports_and_plans_too(root, capsys):
    columns = set().union(*records(read(root).rows))
    means = {name for name in columns if f"{name}_std" in columns and name != "published"}
    assert {key.name for key in KEYS if "table" in key.shown} == means
    assert columns - means - {f"{name}_std" for name in means} == keys_at(REPORT)
    main(["plan", *RUNS["single"], "--json"])
    (cell,) = json.loads(capsys.readouterr().out)
    assert set(cell) == keys_at(PLAN)


def test_keys_are_whole():
    assert len(BY_NAME) == len(KEYS)
    for key in KEYS:
        assert key.meaning, key
        assert not key.meaning.endswith("."), key
        assert key.unit, key
        assert key.heading, key
        assert key.direction in ("higher", "lower", "none")
        assert set(key.place) <= set(PLACES), key
        assert key.place, key
        assert not ("curve" in key.shown and METRICS not in key.place), key
        assert not ({"table", "compare"} & set(key.shown) and RESULT not in key.place), key
    assert not set(FORMER) & set(BY_NAME), "a name is former or current"
    assert set(FORMER.values()) <= set(BY_NAME)


@pytest.mark.parametrize("kind", ["single", "recipe"])
def test_a_result_of_version_0_1_is_read_under_the_names_of_today(kind, tmp_path):
    old = OLD[kind]
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps(old))
    (folder / "DONE").touch()
    (run,) = collect(tmp_path, variant_of=variant).runs
    for result in (run.result, result_of(RunFolder(folder))):
        assert result["explored"] == old["exploration_rate"]
        assert result["inference_flops"] == old["test_flops"]
        assert result["inference_flops_ratio"] == old["test_flops_ratio"]
        assert not set(FORMER) & set(result)
        assert all(is_known(name) for name in result)
    for new, before in zip(run.result.get("cycles", ()), old.get("cycles", ()), strict=True):
        assert new["train_flops_dense"] == before["dense_flops"]
        assert all(is_known(name) for name in new)
    (row,) = read(tmp_path).rows
    assert row.means["explored"].value == old["exploration_rate"]


def test_metrics_of_version_0_1_are_drawn(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(OLD["metrics.csv"].replace("explored", "exploration_rate"))  # either name
    curves = read_curves(path, 100)
    assert curves["explored"][-1] == pytest.approx(OLD["single"]["exploration_rate"], rel=1e-3)
    assert {"val_accuracy", "train_loss", "sparsity", "train_flops_ratio", "lr"} <= set(curves)


def test_a_stage_of_an_earlier_version_counts_in_a_recipe_that_goes_on(tmp_path):
    State({}, {}, {"steps": 3, "dense_flops": 12, "exploration_rate": 0.5}).save(tmp_path / "ticket.pt")
    assert State.load(tmp_path / "ticket.pt").facts == {"steps": 3, "train_flops_dense": 12, "explored": 0.5}


def test_a_new_name_wins_over_a_former_one():
    assert with_current_names({"explored": 1.0, "exploration_rate": 0.5}) == {"explored": 1.0}


def test_numbers_of_ones_own_are_shown_under_their_plain_names(tmp_path):
    for seed in (0, 1):
        folder = write_run(tmp_path / str(seed), seed=seed, config_hash=str(seed), entropy=0.25 + seed)
        (folder / "metrics.csv").write_text("step,val_accuracy,entropy\n1,0.5,0.7\n2,0.6,0.6\n")
    runs = collect(tmp_path, variant_of=variant).runs
    assert compare(*runs)["numbers"]["entropy"] == (0.25, 1.25)
    shown, damaged = picture(read(tmp_path).rows, base=tmp_path)
    assert damaged == []
    assert shown["curves"] == {"val_accuracy": "validation accuracy", "entropy": "entropy"}
    assert shown["rows"][0]["runs"][0]["curves"]["entropy"] == [0.7, 0.6]
    assert describe("entropy").name_for_people == "entropy"


def test_reading_the_schema_imports_nothing_heavy():
    code = "import sys, sparsebench.results.schema; print({'torch', 'numpy', 'rich', 'yaml'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment_of(), check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "set()"


def test_the_page_of_the_documentation_is_up_to_date():
    done = subprocess.run(
        [sys.executable, "scripts/result_reference.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
