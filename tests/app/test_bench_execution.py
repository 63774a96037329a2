"""The benchmark of sparse products: its cases run, ratios are dense over sparse, the record says what it holds for."""

import json

import pytest

from sparsebench.app.cli import build_kernels
from sparsebench.app.cli.bench import execution, main
from sparsebench.execution import direct

pytestmark = pytest.mark.skipif(not direct.available(), reason="needs a C++ compiler")


def test_every_subject_runs_and_is_recorded(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SPARSEBENCH_KERNELS", str(tmp_path / "kernels"))
    monkeypatch.setattr(execution, "LAYERS", ((4, 6, 4),))
    monkeypatch.setattr(execution, "SMALLEST", (4, 4, 2))
    monkeypatch.setattr(execution, "SET_MLP", (30, 40, 10))
    small = [
        "--model=resnet20",
        "--size=8",
        "--batch=4",
        "--rounds=1",
        "--sparsity=0.9",
        f"--json={tmp_path / 'n.json'}",
    ]
    main(["execution", *small])
    shown = capsys.readouterr().out
    assert "| layer | sparsity | milliseconds, dense | dense / dense | float32 / direct | bfloat16 / direct |" in shown
    said = json.loads((tmp_path / "n.json").read_text())
    assert {name: len(rows) for name, rows in said["rows"].items()} == {
        "layers": 2,
        "mlp": 3,
        "network": 2,
        "inference": 2,
    }
    assert said["hardware"]["cpu_capability"]
    for rows in said["rows"].values():
        assert all({"median", "least", "greatest"} == row["dense / dense"].keys() for row in rows)


def test_ratios_are_dense_over_sparse_and_the_faster_dense_layout_counts():
    seconds = {
        "dense": [4.0, 4.0],
        "dense again": [4.0, 4.0],
        "dense, channels last": [2.0, 8.0],
        "bfloat16": [1.0, 1.0],
        "direct": [1.0, 2.0],
    }
    row = execution.compare(seconds, ("direct",))
    assert row["float32 / direct"].median == 2.0
    assert row["bfloat16 / direct"].median == 0.75
    assert row["dense / dense"].median == 1.0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--sparsity=1"], "below 1"), (["--what=speed"], "'speed' is unknown: choose among layers")],
)
def test_refusals(arguments, words, capsys):
    with pytest.raises(SystemExit):
        main(["execution", *arguments])
    assert words in capsys.readouterr().err


def test_kernels_are_built_ahead(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    build_kernels.main(["--folder", str(tmp_path), "--kind", "DEFAULT"])
    assert capsys.readouterr().out.splitlines()[-1] == str(next(tmp_path.glob("default-*.so")))
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(SystemExit):
        build_kernels.main(["--folder", str(tmp_path / "other")])
    assert "false cannot compile the kernels" in capsys.readouterr().err
