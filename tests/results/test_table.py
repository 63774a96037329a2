"""Rows: what is averaged, what is kept apart, in which order, and what is said about it."""

import math
import sys
from pathlib import Path

import pytest

from sparsebench.app.cli.report import variant
from sparsebench.results.collect import collect
from sparsebench.results.render.columns import aligned, grid, records
from sparsebench.results.table import mean, tabulate

sys.path.insert(0, str(Path(__file__).parent))
from written_runs import config_of, write_run


def rows_of(folder, by=()):
    return tabulate(collect(folder, variant_of=variant).runs, by)


def column(table, header):
    place = table.headers.index(header)
    return [row[place].strip() for row in table.body]


def test_mean_and_sample_deviation_by_hand():
    found = mean([1.0, 2.0, 4.0])
    assert found.value == pytest.approx(7 / 3)
    assert found.std == pytest.approx(math.sqrt(((4 / 3) ** 2 + (1 / 3) ** 2 + (5 / 3) ** 2) / 2))
    assert mean([3.0]).std is None


def test_seeds_are_averaged(tmp_path):
    for seed, accuracy in enumerate((0.70, 0.72, 0.74)):
        write_run(tmp_path / str(seed), seed=seed, test_accuracy=accuracy, config_hash=f"{seed}")
    (row,), notes = rows_of(tmp_path)
    assert row.seeds == [0, 1, 2]
    assert notes == []
    assert column(grid([row]), "test\nacc. %") == ["72.00 ± 2.00"]


def test_a_single_seed_has_no_deviation(tmp_path):
    write_run(tmp_path / "a")
    rows, _ = rows_of(tmp_path)
    table = grid(rows)
    assert column(table, "test\nacc. %") == ["75.00"]
    assert not any(
        "±" in cell for header, cell in zip(table.headers, table.body[0], strict=True) if "publ" not in header
    )


@pytest.mark.parametrize(
    "change", [{"method": "set"}, {"model": "vgg19"}, {"dataset": "cifar10"}, {"sparsity_target": 0.8}, {"epochs": 50}]
)
def test_whatever_identifies_a_group_separates_rows(tmp_path, change):
    write_run(tmp_path / "a", seed=0)
    write_run(tmp_path / "b", seed=1, **change)
    rows, notes = rows_of(tmp_path)
    assert [len(row.runs) for row in rows] == [1, 1]
    assert notes == []


def test_another_learning_rate_is_kept_apart_even_under_another_seed(tmp_path):
    write_run(tmp_path / "a", seed=0, config_hash="a")
    write_run(tmp_path / "b", seed=1, config_hash="b")
    write_run(tmp_path / "c", seed=2, config_hash="c", config={"optimizer": {"lr": 0.2}})
    rows, notes = rows_of(tmp_path)
    assert [(row.seeds, row.settings) for row in rows] == [
        ([0, 1], {"optimizer.lr": 0.1}),
        ([2], {"optimizer.lr": 0.2}),
    ]
    assert notes == ["rigl, resnet50, imagenet: 2 rows differ in configuration and are kept apart"]
    assert column(grid(rows), "settings") == ["optimizer.lr=0.1", "optimizer.lr=0.2"]


def test_where_things_lie_does_not_separate_rows(tmp_path):
    write_run(tmp_path / "a", seed=0, config_hash="a")
    write_run(tmp_path / "b", seed=1, config_hash="b", config={"name": "other", "logger": {"kind": "wandb"}})
    rows, _ = rows_of(tmp_path)
    assert [row.seeds for row in rows] == [[0, 1]]


def test_one_seed_with_two_hashes_is_never_averaged_even_without_configurations(tmp_path):
    write_run(tmp_path / "a", seed=0, config=False, config_hash="aaaa", test_accuracy=0.5)
    write_run(tmp_path / "b", seed=0, config=False, config_hash="bbbb", test_accuracy=0.9)
    write_run(tmp_path / "c", seed=1, config=False, config_hash="cccc", test_accuracy=0.6)
    rows, notes = rows_of(tmp_path)
    assert sorted(row.seeds for row in rows) == [[0], [0], [1]]
    assert {row.settings["config_hash"] for row in rows} == {"aaaa", "bbbb", "cccc"}
    assert "kept apart" in notes[0]


def test_a_copied_run_counts_once_and_is_named(tmp_path):
    write_run(tmp_path / "a", test_accuracy=0.5)
    write_run(tmp_path / "copy", test_accuracy=0.5)
    rows, notes = rows_of(tmp_path)
    assert [len(row.runs) for row in rows] == [1]
    assert "counted once" in notes[0]
    assert "copy" in notes[0]


def test_dense_comes_first_then_sparsity_for_each_network_and_data_set(tmp_path):
    cells = [
        ("vgg19", "rigl", 0.9),
        ("vgg19", "dense", None),
        ("mlp", "set", 0.95),
        ("mlp", "set", 0.8),
        ("mlp", "dense", None),
    ]
    for number, (model, method, target) in enumerate(cells):
        write_run(tmp_path / str(number), model=model, method=method, sparsity_target=target)
    rows, _ = rows_of(tmp_path)
    assert [(row.key["model"], row.key["method"], row.key["sparsity_target"]) for row in rows] == [
        ("mlp", "dense", None),
        ("mlp", "set", 0.8),
        ("mlp", "set", 0.95),
        ("vgg19", "dense", None),
        ("vgg19", "rigl", 0.9),
    ]


def test_by_orders_rows_and_adds_columns_but_never_merges(tmp_path):
    for number, (lr, target) in enumerate([(0.2, 0.8), (0.1, 0.9), (0.2, 0.9), (0.1, 0.8)]):
        write_run(
            tmp_path / str(number), sparsity_target=target, config={"optimizer": {"lr": lr}}, config_hash=str(number)
        )
    rows, _ = rows_of(tmp_path, by=("optimizer.lr",))
    table = grid(rows, ("optimizer.lr",))
    assert table.headers[0] == "optimizer.lr"
    assert column(table, "optimizer.lr") == ["0.1", "0.1", "0.2", "0.2"]
    assert column(table, "sparsity") == ["0.8", "0.9", "0.8", "0.9"]
    assert "settings" not in table.headers
    with pytest.raises(ValueError, match=r"--by colour is unknown: give dataset, .* such as optimizer.lr"):
        rows_of(tmp_path, by=("colour",))


def test_the_published_value_stands_beside(tmp_path):
    write_run(tmp_path / "a", test_accuracy=0.7350)
    rows, _ = rows_of(tmp_path)
    table = grid(rows)
    assert column(table, "published") == ["73.00 ± 0.04"]
    assert column(table, "Δ") == ["+0.50"]
    assert column(table, "protocol") == ["same epochs, distribution"]
    assert table.sources[0].startswith("rigl: Utku Evci et al.")
    (record,) = records(rows)
    assert record["published"] == 73.0
    assert record["delta"] == pytest.approx(0.5)


def test_other_protocols_are_named_and_unknown_cells_have_a_dash(tmp_path):
    config = config_of(choices={"method": "rigl", "distribution": "uniform", "recipe": "single"})
    write_run(tmp_path / "a", epochs=20, config=config)
    write_run(tmp_path / "b", model="mlp")
    rows, _ = rows_of(tmp_path)
    protocols = column(grid(rows), "protocol")
    assert "-" in protocols
    assert any("epochs 20, not " in text for text in protocols)


def test_a_sparsity_that_emerges_is_compared_by_what_was_measured(tmp_path):
    write_run(
        tmp_path / "a", method="linbreg", model="resnet18", dataset="cifar10", sparsity_target=None, sparsity=0.9561
    )
    rows, _ = rows_of(tmp_path)
    found = rows[0].published
    assert found is None or abs(found.published.sparsity - 0.9561) < 0.005


def test_names_that_are_the_same_in_every_row_move_above_the_table(tmp_path):
    write_run(tmp_path / "a", method="set")
    write_run(tmp_path / "b", method="rigl")
    table = grid(rows_of(tmp_path)[0])
    assert table.common == "dataset imagenet, model resnet50, recipe single, epochs 100"
    assert table.headers[:2] == ["method", "sparsity"]


def test_missing_and_infinite_numbers_are_dashes(tmp_path):
    write_run(tmp_path / "a", explored=None, images_per_second=float("nan"))
    table = grid(rows_of(tmp_path)[0])
    assert column(table, "explored") == ["-"]
    assert column(table, "images/s") == ["-"]


def test_deviations_are_padded_so_that_points_stand_below_each_other():
    assert aligned(["75.00 ± 10.00", "7.00", "8.00 ± 0.10", "-"]) == [
        "75.00 ± 10.00",
        "7.00        ",
        "8.00 ± 0.10 ",
        "-",
    ]


def test_runs_off_their_target_are_not_averaged_with_others(tmp_path):
    for seed in range(3):
        write_run(tmp_path / f"on{seed}", seed=seed, test_accuracy=0.7, target_reached=True)
    write_run(tmp_path / "before", seed=3, test_accuracy=0.7)  # of a version that did not say
    write_run(tmp_path / "off", seed=4, test_accuracy=0.9, target_reached=False, sparsity=0.4)
    rows, notes = rows_of(tmp_path)
    assert sorted(len(row.runs) for row in rows) == [1, 4]
    off = next(row for row in rows if len(row.runs) == 1)
    assert off.settings["target_reached"] is False
    assert [row.means["test_accuracy"].value for row in rows if row is not off] == [pytest.approx(0.7)]
    assert any("off: the requested sparsity was not reached" in note for note in notes)
