"""The best of a comparison, and its ties: paired intervals, Welch's, single runs, in every format."""

import json
import math

import pytest
from written_runs import write_run

from sparsebench.app.cli.report import read
from sparsebench.app.main import main
from sparsebench.results.schema import describe
from sparsebench.results.significance import alike, best, difference, marked, t_quantile, ties


def test_quantiles_of_student():
    assert t_quantile(4) == pytest.approx(2.776445, abs=1e-6)
    assert t_quantile(1) == pytest.approx(12.706205, abs=1e-5)
    assert t_quantile(math.inf) == pytest.approx(1.959964, abs=1e-6)


def test_shared_seeds_are_paired():
    """The seeds vary by 10 points, the methods by 1 +- 0.1: only pairs can tell."""
    one = {0: 51.0, 1: 61.1, 2: 70.9, 3: 81.0}
    other = {0: 50.0, 1: 60.0, 2: 70.0, 3: 80.0}
    low, high = difference(one, other)
    sd = math.sqrt((0.0 + 0.01 + 0.01 + 0.0) / 3)
    assert (low, high) == pytest.approx((1 - 3.182446 * sd / 2, 1 + 3.182446 * sd / 2), abs=1e-5)
    assert not alike(one, other)
    apart = {seed + 10: value for seed, value in other.items()}
    assert alike(one, apart), "Welch's interval of the same numbers is wider than 20 points"


def test_other_seeds_are_compared_by_welch():
    one, other = {0: 10.0, 1: 12.0, 2: 14.0}, {5: 20.0, 6: 21.0, 7: 22.0, 8: 23.0}
    a, b = 4 / 3, (5 / 3) / 4
    freedom = (a + b) ** 2 / (a**2 / 2 + b**2 / 3)
    half = t_quantile(freedom) * math.sqrt(a + b)
    assert difference(one, other) == pytest.approx((-9.5 - half, -9.5 + half))


def test_fewer_runs_are_paired_only_if_all_their_seeds_are_shared():
    long = {seed: 50.0 + seed for seed in range(5)}
    assert difference(long, {0: 49.0, 1: 50.0}) == pytest.approx((1.0, 1.0))
    low, high = difference(long, {0: 49.0, 9: 50.0})
    assert high - low > 2


def test_single_runs_tell_nothing():
    assert difference({0: 1.0}, {0: 2.0, 1: 2.0}) is None
    assert not alike({0: 1.0}, {0: 1.0, 1: 1.0})
    assert best([{0: 99.0}, {0: 50.0, 1: 51.0}, {0: 40.0, 1: 41.0}], higher=True) == {1}
    assert best([{0: 99.0}, {0: 50.0, 1: 51.0}], higher=True) == set(), "nothing to be better than"


def test_equal_numbers_without_spread_are_ties():
    same, worse = {0: 0.25, 1: 0.25}, {0: 0.5, 1: 0.5}
    assert best([same, dict(same), worse], higher=False) == {0, 1}
    assert best([same, worse], higher=True) == {1}


@pytest.fixture
def root(tmp_path):
    leads = {
        "rigl": (0.700, 0.710, 0.720),
        "set": (0.701, 0.709, 0.715),
        "static": (0.60, 0.61, 0.62),
        "dense": (0.9, 0.9),
    }
    for method, accuracies in leads.items():
        for seed, accuracy in enumerate(accuracies):
            target = None if method == "dense" else 0.9
            write_run(
                tmp_path / f"{method}{seed}", method=method, seed=seed, test_accuracy=accuracy, sparsity_target=target,
                config_hash=method + str(seed),
            )  # fmt: skip
    write_run(tmp_path / "alone", method="gmp", test_accuracy=0.95)
    return tmp_path


def test_rows_are_marked_within_data_set_network_and_sparsity(root):
    write_run(root / "other", method="set", test_accuracy=0.99, sparsity_target=0.5, sparsity=0.5)
    rows = read(root).rows
    names = [(row.key["method"], row.key["sparsity_target"]) for row in rows]
    found = {names[place] for place in marked(rows, describe("test_accuracy"))}
    assert found == {("rigl", 0.9), ("set", 0.9)}, "neither dense training nor a single run takes part"
    assert marked(rows, describe("images_per_second")) == set(), "a speed of this machine has no best method"
    assert marked(rows, describe("sparsity")) == set()
    pairs = ties(rows, "test_accuracy")
    assert pairs[names.index(("rigl", 0.9))] == [names.index(("set", 0.9))]
    assert pairs[names.index(("gmp", 0.9))] == []


def test_every_format_marks_the_same_rows(root, capsys):
    main(["report", str(root)])
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert "71.00 ± 1.00 *" in lines["rigl"]
    assert "70.83 ± 0.70 *" in lines["set"]
    assert "61.00 ± 1.00 *" not in lines["static"]
    assert "95.00 *" not in lines["gmp"]
    main(["report", str(root), "--format", "markdown"])
    text = capsys.readouterr().out
    assert "**71.00 ± 1.00**" in text
    assert "**70.83 ± 0.70**" in text
    assert "**61.00" not in text
    assert "**95.00**" not in text
    assert "bold: best of a data set, network and sparsity, or not distinguishable from it" in text
    main(["report", str(root), "--format", "latex", "--pivot"])
    text = capsys.readouterr().out
    assert r"\textbf{71.00}" in text
    assert r"\textbf{70.83}" in text
    assert text.count(r"\textbf") == 2
    main(["report", str(root), "--format", "latex"])
    assert capsys.readouterr().out.count(r"\textbf{71.00} $\pm$ 1.00") == 1
    main(["report", str(root), "--format", "html"])
    page = (root / "report.html").read_text(encoding="utf-8")
    data = json.loads(page.partition('<script type="application/json" id="data">')[2].partition("</script>")[0])
    best_rows = {row["method"] for row in data["rows"] if "test_accuracy" in row["best"]}
    assert best_rows == {"rigl", "set"}


def test_median_and_quartiles_on_request(root, capsys):
    write_run(root / "rigl9", method="rigl", seed=9, test_accuracy=0.5, config_hash="rigl9")
    main(["report", str(root), "--median", "--format", "markdown", "--columns", "test_accuracy"])
    text = capsys.readouterr().out
    assert "70.50 [65.00, 71.25]" in text  # of 50, 70, 71, 72
    assert "median [first, third quartile] over n seeds" in text.lower()
    assert "| 95.00" in text or " 95.00 |" in text, "a single run has no quartiles"
    main(["report", str(root), "--median", "--format", "json", "--columns", "test_accuracy"])
    rows = {row["method"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert rows["rigl"]["test_accuracy_median"] == pytest.approx(0.705)
    assert (rows["gmp"]["test_accuracy_q1"], rows["gmp"]["test_accuracy_median"]) == (None, 0.95)
    with pytest.raises(SystemExit):
        main(["report", str(root), "--median", "--format", "html"])
    assert "--median is for the table, CSV and JSON" in capsys.readouterr().err
