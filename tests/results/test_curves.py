"""Curves of a run: its own metrics, or those of the stages of its recipe."""

import pytest
from written_runs import write_run

from sparsebench.app.cli.report import read
from sparsebench.results.curves import curves_of, parts_of
from sparsebench.results.render.charts import picture


def write_stage(folder, name, *, steps, epochs, accuracy, sparsity):
    """Write the metrics of a stage: one row before training, one per epoch."""
    place = folder / "stages" / name
    place.mkdir(parents=True)
    lines = ["step,epoch,sparsity,val_accuracy", f"0,,{sparsity},"]
    for epoch in range(epochs):
        lines.append(f"{steps * (epoch + 1) // epochs - 1},{epoch},{sparsity},{accuracy + epoch / 100}")
    (place / "metrics.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture
def swamp(tmp_path):
    """Two particles: a ticket of half an epoch, then two cycles of two epochs for each particle, 10 steps an epoch."""
    cycles = [
        {"stage": "cycle0-measured", "particles": 2,
         "stages": {"ticket": 5, "cycle0-particle0": 20, "cycle0-particle1": 20}},
        {"stage": "cycle1-measured", "particles": 2, "stages": {"cycle1-particle0": 20, "cycle1-particle1": 20}},
    ]  # fmt: skip
    folder = write_run(tmp_path / "a", recipe="swamp", method="swamp", steps=85, epochs=8.5, cycles=cycles)
    for cycle, sparsity in ((0, 0.0), (1, 0.2)):
        for particle in (0, 1):
            name = f"cycle{cycle}-particle{particle}"
            write_stage(folder, name, steps=20, epochs=2, accuracy=0.5 + cycle / 10 + particle / 5, sparsity=sparsity)
    return folder


def test_stages_follow_each_other_and_particles_are_averaged(swamp):
    write_stage(swamp, "ticket", steps=5, epochs=1, accuracy=0.1, sparsity=0.0)
    (run,) = read(swamp.parent).found.runs
    curves, damaged = curves_of(run, 120)
    assert damaged == []
    assert curves["at"] == pytest.approx(
        [0, 0.4, 0.5, 2.3, 4.3, 4.5, 6.3, 8.3]
    )  # a step of both is a tenth of 2 epochs
    assert curves["at"] == sorted(curves["at"])
    assert curves["val_accuracy"] == pytest.approx([None, 0.1, None, 0.6, 0.61, None, 0.7, 0.71])
    assert curves["sparsity"] == [0, 0, 0, 0, 0, 0.2, 0.2, 0.2]


def test_a_stage_without_metrics_leaves_its_place_empty(swamp):
    (swamp / "stages" / "cycle0-particle1" / "metrics.csv").unlink()
    (swamp / "stages" / "cycle1-particle0" / "metrics.csv").write_text("step,sparsity\n0,much\n")
    (run,) = read(swamp.parent).found.runs
    assert len(parts_of(run)) == 4
    curves, (line,) = curves_of(run, 120)
    assert "cycle1-particle0" in line
    assert curves["at"] == pytest.approx([0.5, 2.3, 4.3, 4.5, 6.3, 8.3])
    assert curves["val_accuracy"] == pytest.approx([None, 0.5, 0.51, None, 0.8, 0.81])


def test_the_page_shows_them_and_keeps_them_thin(swamp):
    for name in ("cycle0-particle0", "cycle0-particle1"):
        lines = ["step,val_accuracy", *(f"{step},{step / 10_000}" for step in range(5000))]
        (swamp / "stages" / name / "metrics.csv").write_text("\n".join(lines))
    shown, _ = picture(read(swamp.parent).rows, base=swamp.parent)
    (run,) = shown["rows"][0]["runs"]
    assert len(run["at"]) <= 120
    assert set(shown["curves"]) == {"val_accuracy", "sparsity"}


def test_runs_of_earlier_versions_have_no_record_of_their_stages(tmp_path):
    write_run(tmp_path / "a", recipe="imp", steps=10, epochs=1, cycles=[{"stage": "cycle0-measured", "particles": 1}])
    (run,) = read(tmp_path).found.runs
    assert curves_of(run, 120) == ({"at": []}, [])


def test_what_counts_so_far_counts_from_the_first_stage_on(tmp_path):
    cycles = [{"particles": 1, "stages": {"dense": 10}}, {"particles": 2, "stages": {"one": 10, "two": 10}}]
    folder = write_run(tmp_path / "a", recipe="soup", steps=30, epochs=3, cycles=cycles)
    for name, ratio, explored in (("dense", 1.0, 1.0), ("one", 0.1, 0.1), ("two", 0.1, 0.1)):
        place = folder / "stages" / name
        place.mkdir(parents=True)
        (place / "metrics.csv").write_text(
            f"step,explored,train_flops_ratio\n0,,\n4,{explored},{ratio}\n9,{explored},{ratio}\n"
        )
    (run,) = read(tmp_path).found.runs
    curves, _ = curves_of(run, 120)
    assert curves["explored"] == [None, 1, 1, None, 1, 1]
    assert curves["train_flops_ratio"] == [None, 1, 1, None, pytest.approx(0.55), pytest.approx(0.4)]
