"""The same table for a terminal, in Markdown, LaTeX, CSV and JSON."""

import csv
import io
import json

import pytest

from sparsebench.results.render.columns import Grid
from sparsebench.results.render.latex import latex
from sparsebench.results.render.text import csv_text, json_text, markdown, terminal


@pytest.fixture
def grid():
    table = Grid(common="dataset digits", sources=["rigl: somebody"])
    table.add("method", ["dense", "a|b_50%"], numeric=False)
    table.add("test\nacc. %", ["90.00 ± 1.00", "8.00"])
    table.add("Δ", ["+0.10", "-"], costs=False)
    table.add("images/s", ["100", "200"], results=False)
    return table


def test_markdown_has_columns_of_equal_width_and_escapes_bars(grid):
    lines = markdown(grid, ["a remark"]).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len({len(line) for line in table}) == 1
    assert table[0].split("|")[2].strip() == "test acc. %"
    assert r"a\|b_50%" in table[3]
    assert table[1].split("|")[1:3] == [" -------- ", " -----------: "]
    assert "- a remark" in lines
    assert "- published, rigl: somebody" in lines
    assert lines[0] == "Dataset digits:"


def test_latex_is_booktabs_and_escapes(grid):
    text = latex(grid, ["a remark"])
    assert r"\begin{tabular}{lrrr}" in text
    assert [text.index(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == sorted(
        text.index(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")
    )
    assert r"a|b\_50\%" in text
    assert r"90.00 $\pm$ 1.00" in text
    assert r"$\Delta$" in text
    body = text[text.index(r"\begin") :]
    assert body.count("&") == 3 * 3
    assert "% a remark" in text


def test_a_file_for_reading_has_no_colours_and_no_broken_lines(grid):
    text = terminal(grid, ["a remark"], width=None, colour=False)
    assert "\x1b" not in text
    assert text.splitlines()[0] == "dataset digits"
    rows = [line for line in text.splitlines() if line.startswith(("dense", "a|b"))]
    assert len(rows) == 2
    assert "90.00 ± 1.00" in rows[0]
    assert rows[0].index("100") == rows[1].index("200")


def test_colours_come_on_demand(grid):
    assert "\x1b" in terminal(grid, [], width=100, colour=True)


def test_a_table_wider_than_the_terminal_becomes_two(grid):
    one, two = (terminal(grid, [], width=width, colour=False) for width in (80, 34))
    assert [sum(line.startswith("dense  ") for line in text.splitlines()) for text in (one, two)] == [1, 2]
    assert "…" not in two


def test_csv_keeps_full_numbers_and_leaves_gaps():
    found = list(csv.DictReader(io.StringIO(csv_text([{"a": 0.1234567890123, "seeds": [0, 1], "c": None}]))))
    assert found == [{"a": "0.1234567890123", "seeds": "0 1", "c": ""}]


def test_json_has_no_names_for_what_json_cannot_say():
    found = json.loads(json_text([{"a": float("nan"), "b": [1.0, float("inf")]}], notes=["x"]))
    assert found == {"rows": [{"a": None, "b": [1.0, None]}], "notes": ["x"]}
