"""report: pages, plots and Parquet go to files; --watch does it again when a run changes."""

import json
import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "results"))
from written_runs import write_metrics, write_run

from sparsebench.app.cli import watch


@pytest.fixture
def runs(outputs):
    for seed in (0, 1):
        write_metrics(write_run(outputs / "runs" / f"rigl-{seed}", seed=seed, config_hash=str(seed)), epochs=3)
    write_run(outputs / "runs" / "dense", method="dense", sparsity_target=None, sparsity=0.0, test_accuracy=0.76)
    return outputs


def data_of(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(text.partition('id="data">')[2].partition("</script>")[0])


def test_the_page_lies_in_the_folder_or_where_it_is_asked_for(cli, runs):
    assert "wrote outputs/report.html" in cli("report", "--format", "html").out
    assert cli("report", "outputs", "--format", "html", "--output", "pages/a.html").code == 0
    inside, outside = data_of(runs / "report.html"), data_of(Path("pages/a.html"))
    assert inside["title"] == "outputs"
    assert [row["n"] for row in inside["rows"]] == [1, 2]
    assert {run["folder"] for row in inside["rows"] for run in row["runs"]} == {
        f"runs/{n}/" for n in ("dense", "rigl-0", "rigl-1")
    }
    assert outside["rows"][0]["runs"][0]["folder"] == "../outputs/runs/dense/"
    assert [path.name for path in Path("pages").iterdir()] == ["a.html"]


def test_damaged_unfinished_and_unlike_runs_are_named_on_the_page(cli, runs):
    (write_run(runs / "damaged") / "result.json").write_text('{"method": "ri')
    write_run(runs / "cut", done=False)
    (runs / "empty").mkdir()
    write_run(runs / "old", seed=7, config_hash="7", versions={"sparsebench": "0.0.1", "torch": "2.15.0"})
    (runs / "runs" / "rigl-1" / "metrics.csv").write_text("step,lr\n1,x\n")
    answer = cli("report", "--format", "html")
    assert (answer.code, answer.err) == (0, "")
    notes = " | ".join(data_of(runs / "report.html")["notes"])
    for words in (
        "skipped: damaged/result.json: damaged",
        "unfinished: cut",
        "runs differ in sparsebench",
        "rigl-1/metrics.csv",
    ):
        assert words in notes
    assert "empty" not in notes
    assert sum(row["n"] for row in data_of(runs / "report.html")["rows"]) == 4


def test_nothing_to_show_is_one_line(cli, outputs):
    outputs.mkdir()
    answer = cli("report", "--format", "html")
    assert answer.code == 2
    assert "holds no finished run" in answer.err
    assert not list(outputs.iterdir())


def test_parquet(cli, runs, monkeypatch):
    pq = pytest.importorskip("pyarrow.parquet")
    write_run(runs / "cut", done=False)
    answer = cli("report", "--format", "parquet")
    assert answer.code == 0
    assert "unfinished: cut" in answer.err
    rows = pq.read_table(runs / "report.parquet").to_pylist()
    assert [row["seeds"] for row in rows] == [[0], [0, 1]]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    answer = cli("report", "--format", "parquet", "--output", "a.parquet")
    assert answer.code == 2
    assert "sparsebench[parquet]" in answer.err
    assert not Path("a.parquet").exists()


def test_plots(cli, runs):
    pytest.importorskip("matplotlib")
    answer = cli("report", "outputs", "--plots", "figures")
    assert answer.code == 0
    assert Path("figures/accuracy_sparsity.svg").exists()
    assert Path("figures/val_accuracy.png").exists()
    assert "method" not in answer.out, "the table is not what was asked for"


def test_watching_shows_again_only_what_has_changed(outputs, capsys):
    write_run(outputs / "a")
    shown = []

    def show():
        shown.append(len(list(outputs.iterdir())))
        if len(shown) == 1:
            threading.Timer(0.1, write_run, (outputs / "b",), {"seed": 1}).start()
        return "nothing yet" if len(shown) == 1 else ""

    watch.watch(outputs, show, every=0.05, rounds=12)
    assert shown == [1, 2] or (len(shown) == 3 and shown[-1] == 2), "at most once while the run is being written"
    assert capsys.readouterr().out == "sparsebench: nothing yet\n"


def test_ctrl_c_ends_watching_in_peace(cli, runs, monkeypatch):
    def interrupt(seconds):
        assert seconds == 0.5
        raise KeyboardInterrupt

    monkeypatch.setattr(watch.time, "sleep", interrupt)
    answer = cli("report", "--watch", "--every", "0.5")
    assert (answer.code, answer.err) == (0, "")
    assert "rigl" in answer.out
    assert "\x1b" not in answer.out
    assert cli("report", "--watch", "--every", "0").code == 2


def test_watching_waits_where_nothing_is_finished_yet(cli, outputs, monkeypatch):
    write_run(outputs / "cut", done=False)
    monkeypatch.setattr(watch.time, "sleep", lambda seconds: (_ for _ in ()).throw(KeyboardInterrupt))
    answer = cli("report", "--watch")
    assert answer.code == 0
    assert "unfinished: cut" in answer.out
