"""Write the table as Parquet, for pandas, polars, DuckDB and R."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from typing import Any


def parquet(records: Sequence[dict[str, Any]]) -> bytes:
    """Return records as the bytes of a Parquet file: numbers in full precision, null if missing.

    Raises:
        ValueError: the package pyarrow is missing.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise ValueError("Parquet needs the package pyarrow: install sparsebench[parquet], or use --format csv")
    import pyarrow
    from pyarrow import parquet as writer

    columns = {key: [record[key] for record in records] for key in records[0]}
    arrays = {key: _array(pyarrow, values) for key, values in columns.items()}
    file = io.BytesIO()
    writer.write_table(pyarrow.table(arrays), file)
    return file.getvalue()


def _array(pyarrow: Any, values: list[Any]) -> Any:
    """Return a column; it holds floats if integers and floats are mixed, or if it is empty."""
    numbers = [value for value in values if value is not None]
    plain = all(isinstance(value, int | float) and not isinstance(value, bool) for value in numbers)
    if plain and not all(isinstance(value, int) for value in numbers):
        return pyarrow.array([None if value is None else float(value) for value in values], pyarrow.float64())
    return pyarrow.array(values, pyarrow.float64() if not numbers else None)
