"""Charts for papers: both forms, only what has something to show, the same bytes for the same runs."""

import xml.etree.ElementTree as ET

import pytest
from written_runs import LAYERS, write_metrics, write_run

from sparsebench.app.cli.report import read
from sparsebench.results.render import plots
from sparsebench.results.render.charts import dodged, picture

pytest.importorskip("matplotlib")


@pytest.fixture
def shown(tmp_path):
    for method, sparsity in (("rigl", 0.8), ("rigl", 0.95), ("set", 0.8), ("dense", 0.0)):
        folder = write_run(
            tmp_path / f"{method}{sparsity}", method=method, sparsity=sparsity, sparsity_target=sparsity or None,
            train_flops_ratio=1.01 - sparsity, test_accuracy=0.8 - 0.1 * sparsity,
            density_per_layer=dict.fromkeys(LAYERS, 1 - sparsity), steps=1000,
            config_hash=f"{method}{sparsity}", config={"sparsity": sparsity},
        )  # fmt: skip
        write_metrics(folder, epochs=4, sparsity=sparsity)
    return picture(read(tmp_path).rows, base=tmp_path)[0]


def test_svg_and_png_of_everything_that_is_known(shown, tmp_path):
    written = plots.draw(shown, tmp_path / "plots")
    stems = {path.stem for path in written}
    assert {"accuracy_sparsity", "accuracy_flops", "density_layers", "explored", "val_accuracy"} <= stems
    assert "lambda" not in stems
    assert "train_accuracy" not in stems
    assert all(path.with_suffix(f".{form}") in written for path in written for form in ("svg", "pdf", "png"))
    for path in written:
        if path.suffix == ".svg":
            ET.parse(path)
        else:
            assert path.read_bytes().startswith(b"\x89PNG" if path.suffix == ".png" else b"%PDF")
    text = (tmp_path / "plots" / "accuracy_sparsity.svg").read_text()
    for word in ("RigL", "SET", "dense", "RigL, published", "test accuracy (%)", "0.95"):
        assert f">{word}<" in text
    assert ">Pareto front<" in (tmp_path / "plots" / "accuracy_flops.svg").read_text()
    assert ">sparsity 0.95<" in (tmp_path / "plots" / "explored.svg").read_text()


def test_the_same_runs_give_the_same_picture(shown, tmp_path):
    shown = {**shown, "curves": {}, "rows": [{**row, "runs": []} for row in shown["rows"]]}
    one, two = plots.draw(shown, tmp_path / "one"), plots.draw(shown, tmp_path / "two")
    assert [path.name for path in one] == [
        f"accuracy_{x}.{form}" for x in ("sparsity", "flops") for form in ("svg", "pdf", "png")
    ]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_error_bars_lie_side_by_side():
    shifts = dodged({0.7, 1.0, 1.3}, 3)
    assert shifts[1] == 0
    assert shifts[2] - shifts[1] == pytest.approx(shifts[1] - shifts[0])
    assert 0 < shifts[2] - shifts[0] < 0.5 * 0.3, "a point stays nearer to its own sparsity than to the next"
    assert dodged({1.0}, 1) == [0]


def test_networks_are_drawn_apart(shown, tmp_path):
    rows = [{**row, "runs": []} for row in shown["rows"]]
    other = [{**row, "model": "timm:vit"} for row in rows]
    names = {path.name for path in plots.draw({**shown, "rows": [*rows, *other]}, tmp_path / "p")}
    assert {"imagenet-resnet50-accuracy_flops.svg", "imagenet-timm-vit-accuracy_flops.svg"} <= names


def test_a_missing_package_is_named(shown, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"install sparsebench\[plots\]"):
        plots.draw(shown, tmp_path)
