"""The table as Parquet."""

import io

import pytest

from sparsebench.results.render.parquet import parquet

RECORDS = [
    {"method": "dense", "sparsity_target": None, "seeds": [0], "n": 1, "value": 1, "published": None},
    {"method": "rigl", "sparsity_target": 0.9, "seeds": [0, 1], "n": 2, "value": 0.5, "published": None},
]


def test_numbers_come_back_in_full():
    pq = pytest.importorskip("pyarrow.parquet")
    table = pq.read_table(io.BytesIO(parquet(RECORDS)))
    assert table.to_pylist() == RECORDS
    types = {field.name: str(field.type) for field in table.schema}
    assert (types["n"], types["value"], types["published"]) == ("int64", "double", "double")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"install sparsebench\[parquet\]"):
        parquet(RECORDS)
