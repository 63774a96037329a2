"""Finished runs as plain rows, or as a data frame of pandas: one row per run, nothing averaged."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparsebench.results.collect import collect
from sparsebench.results.table import dotted
from sparsebench.runs.messages import did_you_mean


def read_results(folder: str | Path, *, settings: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return one mapping per finished run below a folder: ``folder``, the requested settings, then its result.

    Mappings and lists of a result are spread over dotted names (``density_per_layer.fc.weight``) or kept as lists.

    Args:
        folder: a folder with runs at any depth, or the folder of one run.
        settings: dotted keys of the configuration, such as ``optimizer.lr``; None for runs without that key.

    Raises:
        ValueError: the folder does not exist or has no finished run, or no run has a setting of that name.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder: give a folder with runs, such as outputs")
    runs = collect(root, variant_of=lambda config: "").runs
    if not runs:
        raise ValueError(f"{root} holds no finished run: sparsebench train ... writes runs to outputs")
    configs = [dotted(run.config) for run in runs]
    for key in settings:
        if not any(key in config for config in configs):
            raise ValueError(f"no run has a setting {key!r}{did_you_mean(key, sorted(set().union(*configs)))}")
    return [
        {"folder": str(run.folder), **{key: config.get(key) for key in settings}, **dotted(run.result)}
        for run, config in zip(runs, configs, strict=True)
    ]


def frame(folder: str | Path, *, settings: Sequence[str] = ()) -> Any:
    """Return the finished runs below a folder as a ``pandas.DataFrame``, one row per run.

    For example::

        table = sparsebench.results.frame("outputs", settings=["optimizer.lr"])
        table.groupby(["method", "sparsity_target"])["test_accuracy"].agg(["mean", "std", "count"])

    Args:
        folder: as for ``read_results``.
        settings: as for ``read_results``.

    Raises:
        ValueError: the package pandas is missing, or an argument is one that ``read_results`` refuses.
    """
    if importlib.util.find_spec("pandas") is None:
        raise ValueError(
            "a data frame needs the package pandas: install sparsebench[frame], or use results.read_results"
        )
    import pandas

    return pandas.DataFrame.from_records(read_results(folder, settings=settings))
