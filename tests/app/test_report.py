"""report: reads what is finished, says what is not, writes five formats, and is quick."""

import csv
import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import environment_of

sys.path.insert(0, str(Path(__file__).parents[1] / "results"))
from written_runs import write_run


@pytest.fixture
def runs(outputs):
    for seed, accuracy in enumerate((0.72, 0.74)):
        write_run(outputs / "runs" / f"rigl-{seed}", seed=seed, test_accuracy=accuracy, config_hash=str(seed))
    write_run(outputs / "runs" / "dense", method="dense", sparsity_target=None, sparsity=0.0, test_accuracy=0.76)
    return outputs


def test_means_published_values_and_dense_first(cli, runs):
    answer = cli("report")
    assert answer.code == 0
    assert "\x1b" not in answer.out
    lines = answer.out.splitlines()
    dense, rigl = (next(i for i, line in enumerate(lines) if line.startswith(name)) for name in ("dense", "rigl"))
    assert dense < rigl
    assert "73.00 ± 1.41" in lines[rigl]
    assert "73.00 ± 0.04" in lines[rigl]


@pytest.mark.parametrize("form", ["terminal", "markdown", "latex", "csv", "json"])
def test_every_format_goes_to_a_file(cli, runs, form):
    printed = cli("report", str(runs), "--format", form)
    written = cli("report", str(runs), "--format", form, "--output", "tables/table.txt")
    assert (printed.code, written.code) == (0, 0)
    assert Path("tables/table.txt").read_text(encoding="utf-8") == printed.out
    assert "wrote tables/table.txt" in written.out
    assert [path.name for path in Path("tables").iterdir()] == ["table.txt"]


def test_programs_get_full_numbers(cli, runs):
    rows = list(csv.DictReader(io.StringIO(cli("report", "--format", "csv").out)))
    assert [row["method"] for row in rows] == ["dense", "rigl"]
    assert rows[1]["seeds"] == "0 1"
    assert float(rows[1]["test_accuracy_std"]) == pytest.approx(0.02 / 2**0.5)
    document = json.loads(cli("report", "--format", "json").out)
    assert set(document) == {"rows", "notes", "unfinished", "skipped"}
    assert document["rows"][1]["published_paper"] == "rigl"


def test_unfinished_failed_damaged_and_foreign_files_are_named_and_skipped(cli, runs):
    write_run(runs / "cut", done=False)
    (write_run(runs / "broken", done=False) / "failed.txt").write_text("ValueError: too hot\n")
    damaged = write_run(runs / "damaged")
    (damaged / "result.json").write_text('{"method": "ri')
    foreign = write_run(runs / "foreign")
    (foreign / "result.json").write_text('{"score": 3}')
    binary = write_run(runs / "binary")
    (binary / "result.json").write_bytes(b"\xff\xfe\x00")
    (runs / "other").mkdir()
    (runs / "other" / "config.yaml").write_text("somebody: else\n")
    answer = cli("report")
    assert answer.code == 0
    said = [line for line in answer.out.splitlines() if line.startswith(("unfinished", "skipped"))]
    assert said == [
        "unfinished: broken (failed: ValueError: too hot)",
        "unfinished: cut (interrupted)",
        *[line for line in said if line.startswith("skipped")],
    ]
    assert [line.split(":")[1].strip() for line in said[2:]] == [
        "binary/result.json",
        "damaged/result.json",
        "foreign/result.json",
    ]
    assert "method is missing" in said[-1]
    assert "other" not in answer.out


def test_a_damaged_configuration_does_not_lose_the_result(cli, outputs):
    folder = write_run(outputs / "a")
    (folder / "config.yaml").write_text("a: [1")
    answer = cli("report")
    assert answer.code == 0
    assert "the result counts without it" in answer.out
    assert "75.00" in answer.out


def test_different_versions_and_machines_are_noted(cli, outputs):
    write_run(outputs / "a", seed=0)
    write_run(outputs / "b", seed=1, versions={"torch": "2.14.0"}, hardware={"gpu": "G"})
    out = cli("report").out
    assert "runs differ in torch: 2.15.0 (1 run), 2.14.0 (1 run)" in out
    assert "images/s and seconds come from several machines" in out


def test_remarks_do_not_disturb_a_table_for_programs(cli, runs):
    write_run(runs / "cut", done=False)
    answer = cli("report", "--format", "csv")
    assert len(list(csv.reader(io.StringIO(answer.out)))) == 3
    assert "unfinished: cut" in answer.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere is not a folder"),
        (["."], "holds no finished run"),
        ([".", "--format", "excel"], "invalid choice"),
        ([".", "--colour"], "unrecognized"),
    ],
)
def test_wrong_input_is_one_line_and_code_two(cli, arguments, words):
    answer = cli("report", *arguments)
    assert answer.code == 2
    assert answer.out == ""
    assert words in answer.err
    assert len(answer.err.strip().splitlines()) == 1


def test_an_unknown_key_is_one_line(cli, runs):
    answer = cli("report", "--by", "colour")
    assert answer.code == 2
    assert "--by colour is unknown" in answer.err


def test_only_unfinished_runs_are_named_in_the_error(cli, outputs):
    write_run(outputs / "cut", done=False)
    answer = cli("report")
    assert answer.code == 2
    assert "unfinished: cut" in answer.err


def test_a_real_run_is_understood(cli, tiny):
    assert cli("train", "-m", "seed=0,1", *tiny).code == 0
    document = json.loads(cli("report", "--format", "json").out)
    (row,) = document["rows"]
    assert row["seeds"] == [0, 1]
    assert all(row[key] is not None for key in ("test_accuracy", "explored", "seconds", "executed_flops_ratio"))


def test_two_hundred_runs_are_read_quickly_and_without_torch(outputs):
    for number in range(200):
        write_run(outputs / str(number), seed=number, config_hash=str(number))
    code = f"""
import sys, time
start = time.perf_counter()
from sparsebench.app.main import main
main(["report", {str(outputs)!r}])
assert not {{"torch", "lightning", "numpy", "hydra"}} & set(sys.modules), "heavy import"
print(time.perf_counter() - start)
"""
    start = time.perf_counter()
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment_of())
    assert found.returncode == 0, found.stderr
    assert time.perf_counter() - start < 10  # generous: machines are shared; 0.5 s alone
    assert "200" in found.stdout
