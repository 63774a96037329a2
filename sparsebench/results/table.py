"""Rows of a table: runs that differ only in the seed, their means, and a published number to compare."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sparsebench.results.collect import Finished
from sparsebench.results.published import Match, match
from sparsebench.runs.identity import WITHOUT_EFFECT
from sparsebench.runs.mappings import dotted

GROUP = ("dataset", "model", "recipe", "method", "sparsity_target", "epochs")


@dataclass(frozen=True)
class Mean:
    """Mean and sample standard deviation (n - 1); no deviation for a single value."""

    value: float
    std: float | None


@dataclass
class Row:
    """One row of a table: runs that differ only in the seed.

    Attributes:
        key: values of ``GROUP``.
        runs: the runs, ordered by seed.
        settings: dotted configuration keys that distinguish this row from others in the same group.
        means: means by metric; a metric that no run has is missing.
        published: the matching published number, or None.
    """

    key: dict[str, Any]
    runs: list[Finished]
    settings: dict[str, Any] = field(default_factory=dict)
    means: dict[str, Mean] = field(default_factory=dict)
    published: Match | None = None

    @property
    def seeds(self) -> list[int]:
        """Seeds of the row's runs."""
        return [run.result["seed"] for run in self.runs]

    @property
    def delta(self) -> float | None:
        """Our mean minus the published value, in points of accuracy."""
        if self.published is None or self.published.published.value is None:
            return None
        return 100 * self.means["test_accuracy"].value - self.published.published.value


def mean(values: Sequence[float]) -> Mean:
    """Return mean and sample standard deviation."""
    return Mean(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def tabulate(runs: Iterable[Finished], by: Sequence[str] = ()) -> tuple[list[Row], list[str]]:
    """Group runs into rows, with remarks on rows kept apart and runs counted once.

    Args:
        runs: finished runs.
        by: columns that order the rows before all others: names of ``GROUP`` or dotted configuration keys.

    Returns:
        Rows, dense training first for each network and data set; and remarks.

    Raises:
        ValueError: ``by`` names a key that no run has.
    """
    groups: dict[tuple[Any, ...], list[Finished]] = {}
    for run in runs:
        groups.setdefault(tuple(run.result.get(key) for key in GROUP), []).append(run)
    notes: list[str] = []
    rows: list[Row] = []
    for values, members in groups.items():
        rows += _split(dict(zip(GROUP, values, strict=True)), members, notes)
    for row in rows:
        _fill(row)
    _check(by, rows)
    return sorted(rows, key=lambda row: _order(row, by)), notes


def is_number(value: Any) -> bool:
    """Return True for values that can be averaged."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def value_of(row: Row, key: str) -> Any:
    """Return the value of a column named in ``by``: from the group, or from the configuration."""
    return row.key[key] if key in row.key else dotted(row.runs[0].config).get(key)


def _split(key: dict[str, Any], members: list[Finished], notes: list[str]) -> list[Row]:
    """Separate runs that differ in more than the seed; count a repeated run once."""
    variants: dict[tuple[str, bool], list[Finished]] = {}
    for run in sorted(members, key=lambda run: (run.result["seed"], str(run.folder))):
        variants.setdefault((run.variant, is_on_target(run)), []).append(run)
    rows: list[Row] = []
    for runs in variants.values():
        single = _once(runs, notes)
        hashes = Counter(run.result["seed"] for run in single)
        rows.append(Row(key, [run for run in single if hashes[run.result["seed"]] == 1]))
        for run in single:
            if hashes[run.result["seed"]] > 1:
                rows.append(Row(key, [run], {"config_hash": run.result.get("config_hash")}))
    rows = [row for row in rows if row.runs]
    for row in rows:
        if not is_on_target(row.runs[0]):
            row.settings["target_reached"] = False
            places = ", ".join(str(run.folder) for run in row.runs)
            notes.append(f"{places}: the requested sparsity was not reached; kept apart from runs that reached it")
    if len(rows) > 1:
        name = ", ".join(str(key[part]) for part in ("method", "model", "dataset") if key[part] is not None)
        notes.append(f"{name}: {len(rows)} rows differ in configuration and are kept apart")
        _distinguish(rows)
    return rows


def is_on_target(run: Finished) -> bool:
    """Return True if a run ended with the requested sparsity; runs of earlier versions count as such."""
    return run.result.get("target_reached") is not False


def _once(runs: list[Finished], notes: list[str]) -> list[Finished]:
    kept: dict[tuple[Any, Any], Finished] = {}
    for run in runs:
        identity = (run.result["seed"], run.result.get("config_hash"))
        if identity in kept:
            notes.append(f"{run.folder} repeats {kept[identity].folder} (same seed and configuration): counted once")
        else:
            kept[identity] = run
    return list(kept.values())


def _distinguish(rows: list[Row]) -> None:
    """Return the configuration keys in which rows of one group differ."""
    configs = [
        dotted({k: v for k, v in row.runs[0].config.items() if k not in (*WITHOUT_EFFECT, "seed")}) for row in rows
    ]
    keys = list(dict.fromkeys(key for config in configs for key in config))
    telling = [key for key in keys if len({repr(config.get(key, "-")) for config in configs}) > 1]
    for row, config in zip(rows, configs, strict=True):
        row.settings = {**row.settings, **{key: config.get(key, "-") for key in telling}}
        if not row.settings:
            row.settings = {"config_hash": row.runs[0].result.get("config_hash")}


def _fill(row: Row) -> None:
    for metric in dict.fromkeys(name for run in row.runs for name in run.result):
        values = [run.result[metric] for run in row.runs if is_number(run.result.get(metric))]
        if values:
            row.means[metric] = mean(values)
    target = row.key["sparsity_target"]
    measured = row.means["sparsity"].value if "sparsity" in row.means else 0.0
    emerged = target is None and not is_dense(row)
    choices = row.runs[0].config.get("choices") or {}
    row.published = match(
        method=row.key["method"],
        model=row.key["model"],
        dataset=row.key["dataset"],
        recipe=row.key["recipe"],
        sparsity=measured if emerged else target or 0.0,
        emerged=emerged,
        epochs=row.key["epochs"],
        distribution=choices.get("distribution") if target is not None else None,
    )


def _check(by: Sequence[str], rows: Sequence[Row]) -> None:
    known = set(GROUP).union(*(dotted(row.runs[0].config) for row in rows))
    for key in by:
        if key not in known:
            raise ValueError(
                f"--by {key} is unknown: give {', '.join(GROUP)}, or a configuration key such as optimizer.lr"
            )


def _order(row: Row, by: Sequence[str]) -> tuple[Any, ...]:
    key = row.key
    first = tuple(_sortable(value_of(row, name)) for name in by)
    rest = (key["sparsity_target"], key["method"], key["recipe"], key["epochs"])
    settings = tuple(map(_sortable, row.settings.values()))
    return (*first, key["dataset"], key["model"], not is_dense(row), *map(_sortable, rest), settings)


def is_dense(row: Row) -> bool:
    """Return True for dense training."""
    return row.key["method"] == "dense" and row.key["recipe"] == "single"


def _sortable(value: Any) -> tuple[int, float, str]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return (0, 0.0, "") if value is None else (2, 0.0, str(value))
    return (1, value if math.isfinite(value) else 0.0, "")
