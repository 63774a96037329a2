"""What pictures show: thinned curves, Pareto fronts, links, published numbers."""

from urllib.parse import unquote

import pytest
from written_runs import LAYERS, write_metrics, write_run

from sparsebench.app.cli.report import read, variant
from sparsebench.results.collect import collect
from sparsebench.results.curves import read_curves
from sparsebench.results.render.charts import link, pareto, picture
from sparsebench.results.table import tabulate


def test_the_front_holds_what_nothing_else_beats_in_both():
    points = [(0.5, 0.9), (0.2, 0.7), (0.2, 0.8), (0.3, 0.75), (1.0, 0.9), (0.9, 0.95)]
    assert pareto(points) == [(0.2, 0.8), (0.5, 0.9), (0.9, 0.95)]
    assert pareto([]) == []


def test_curves_are_thinned_and_keep_both_ends(tmp_path):
    write_metrics(tmp_path, epochs=1000, steps=1)
    curves = read_curves(tmp_path / "metrics.csv", 50)
    assert len(curves["step"]) == 50
    assert (curves["step"][0], curves["step"][-1]) == (0, 999)
    assert curves["step"] == sorted(curves["step"])
    assert not any(name.startswith("density/") for name in curves)


def test_gaps_stay_gaps_and_empty_columns_vanish(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,val_accuracy,lr,val_loss\n0,,0.1,\n5,0.5,,\n9,nan,0.2,\n")
    curves = read_curves(tmp_path / "metrics.csv", 10)
    assert curves == {"step": [0, 5, 9], "val_accuracy": [None, 0.5, None], "lr": [0.1, None, 0.2]}


def test_a_damaged_file_of_metrics_is_named_and_the_result_counts(tmp_path):
    good, bad = write_run(tmp_path / "good", seed=0), write_run(tmp_path / "bad", seed=1, config_hash="1")
    write_metrics(good)
    (bad / "metrics.csv").write_text("step,lr\n0,ab")
    shown, damaged = picture(read(tmp_path).rows, base=tmp_path)
    (row,) = shown["rows"]
    assert [bool(run["curves"]) for run in sorted(row["runs"], key=lambda run: run["seed"])] == [True, False]
    (line,) = damaged
    assert str(bad / "metrics.csv") in line
    assert "damaged" in line
    (bad / "metrics.csv").write_bytes(b"\xff\xfe\x00")
    assert len(picture(read(tmp_path).rows, base=tmp_path)[1]) == 1


def test_runs_share_the_names_of_their_layers(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / str(seed), seed=seed, config_hash=str(seed), density_per_layer=dict.fromkeys(LAYERS, 0.1))
    shown, _ = picture(tabulate(collect(tmp_path, variant_of=variant).runs)[0], base=tmp_path)
    assert shown["layers"] == [LAYERS]
    assert [run["layers"] for run in shown["rows"][0]["runs"]] == [0, 0]


def test_links_lead_to_the_folders_from_where_the_page_lies(tmp_path):
    folder = tmp_path / "runs" / "a, b=0.9 #1?--ff"
    page = tmp_path / "pages" / "deep"
    for place in (folder, page):
        place.mkdir(parents=True)
    found = link(folder, page)
    assert found.startswith("../../runs/")
    assert not set("#? ,") & set(found)
    assert (page / unquote(found)).resolve() == folder.resolve()


def test_published_numbers_come_at_every_sparsity_with_their_source(tmp_path):
    write_run(tmp_path / "a")
    shown, _ = picture(read(tmp_path).rows, base=tmp_path)
    found = [p for p in shown["published"] if p["method"] == "rigl"]
    assert len({p["sparsity"] for p in found}) > 1
    assert all("Evci" in p["source"] or p["source"] for p in found)
    assert any(p["sparsity"] == pytest.approx(0.9) and p["source"].startswith("Utku Evci") for p in found)
