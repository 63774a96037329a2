"""The leaderboard of committed results: one entry per method, network, data set and sparsity, with ranks and ties."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsebench.results.names import display
from sparsebench.results.significance import SAME, alike, t_quantile
from sparsebench.results.submission import read

_SAMPLE = ("sparsity", "train_flops_ratio", "inference_flops_ratio")


@dataclass(frozen=True)
class Entry:
    """One configuration on the leaderboard.

    Attributes:
        dataset: our name of the data set.
        model: our name of the network.
        method: our name of the method, or of the recipe.
        epochs: epochs of training.
        accuracies: test accuracy in percent by seed.
        costs: means of sparsity, training FLOPs and inference FLOPs of dense; None where unknown.
        command: the command that trained the runs.
        runs: names of run folders, or hashes.
        source: file below ``docs/results``.
        who: the sender; empty for ours.
        hardware: hardware of the runs.
        note: a remark.
    """

    dataset: str
    model: str
    method: str
    epochs: float | None
    accuracies: Mapping[int, float]
    costs: Mapping[str, float | None]
    command: str
    runs: tuple[str, ...]
    source: str
    who: str = ""
    hardware: str = ""
    note: str = ""

    @property
    def mean(self) -> float:
        """Mean accuracy in percent."""
        return statistics.fmean(self.accuracies.values())

    @property
    def half(self) -> float | None:
        """Half the 95 % interval of the mean (Student's t); None for a single run."""
        count = len(self.accuracies)
        if count < 2:
            return None
        return t_quantile(count - 1) * statistics.stdev(self.accuracies.values()) / math.sqrt(count)

    @property
    def level(self) -> float:
        """Sparsity in steps of half a point, under which entries compete."""
        return round((self.costs["sparsity"] or 0.0) / SAME) * SAME


def collect(folder: Path) -> list[Entry]:
    """Return the entries of all committed results below ``docs/results``, in a fixed order.

    Raises:
        ValueError: a submission is wrong.
    """
    found: list[Entry] = []
    for path in sorted(folder.glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        rows = document.get("rows") if isinstance(document, dict) else None
        if rows and "cell" in rows[0]:
            found += _reproduced(rows, path.name)
        elif rows and {"method", "model", "dataset", "seed"} <= rows[0].keys():
            found += _measured(document, path.name)
    for path in sorted((folder / "submissions").glob("*.json")):
        found.append(_submitted(read(path), f"submissions/{path.name}"))
    return sorted(found, key=lambda e: (e.dataset, e.model, e.method, e.costs["sparsity"] or 0.0, e.source, e.command))


def _reproduced(rows: Iterable[Mapping[str, Any]], source: str) -> list[Entry]:
    """Return the cells of ``sparsebench reproduce`` that were run and report a test accuracy."""
    return [
        Entry(
            dataset=row["dataset"],
            model=row["model"],
            method=row["method"],
            epochs=None,
            accuracies=dict(zip(row["seeds"], row["ours"], strict=True)),
            costs={"sparsity": row["sparsity_measured"], "train_flops_ratio": row["train_flops_ratio"]},
            command=row["command"],
            runs=tuple(row["runs"]),
            source=source,
            hardware=row["hardware"] or "",
            note=f"{row['verdict']}: published {row['published']:.2f} ({row['paper']})",
        )
        for row in rows
        if row["n"] and row["measure"] == "test_accuracy"
    ]


def _measured(document: Mapping[str, Any], source: str) -> list[Entry]:
    """Return rows that hold one run each, those that differ only in the seed as one entry."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in document["rows"]:
        key = (row["dataset"], row["model"], row["method"], row.get("epochs"), row.get("overrides", ""))
        groups.setdefault(key, []).append(row)
    common = document.get("common_overrides", "")
    return [
        Entry(
            dataset=dataset,
            model=model,
            method=method,
            epochs=epochs,
            accuracies={row["seed"]: 100 * row["test_accuracy"] for row in rows},
            costs=_costs(rows),
            command=" ".join(f"sparsebench train {common} {overrides}".split()),
            runs=tuple(row.get("mask_digest", "") for row in rows),
            source=source,
            hardware=_machine(document.get("hardware") or {}),
        )
        for (dataset, model, method, epochs, overrides), rows in groups.items()
    ]


def _submitted(document: Mapping[str, Any], source: str) -> Entry:
    results = [run["result"] for run in document["runs"]]
    first = results[0]
    return Entry(
        dataset=first["dataset"],
        model=first["model"],
        method=first["method"],
        epochs=first["epochs"],
        accuracies={result["seed"]: 100 * result["test_accuracy"] for result in results},
        costs=_costs(results),
        command=document["command"],
        runs=tuple(result["config_hash"] for result in results),
        source=source,
        who=document["who"],
        hardware=_machine(first["hardware"]),
        note=document.get("note", ""),
    )


def _costs(results: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for key in _SAMPLE:
        values = [result[key] for result in results if isinstance(result.get(key), int | float)]
        found[key] = statistics.fmean(values) if values else None
    return found


def _machine(hardware: Mapping[str, Any]) -> str:
    return str(hardware.get("gpu") or hardware.get("cpu") or "")


def ranks(entries: Sequence[Entry]) -> list[int | None]:
    """Return the rank of each entry within its data set, network and sparsity; equal ranks are ties.

    A rank is one more than the number of entries that are better and can be told apart. Dense training and single runs
    have no rank, and neither has an entry without rivals.
    """
    found: list[int | None] = []
    for entry in entries:
        rivals = [e for e in entries if _place(e) == _place(entry) and len(e.accuracies) > 1 and e.method != "dense"]
        if len(entry.accuracies) < 2 or entry.method == "dense" or len(rivals) < 2:
            found.append(None)
            continue
        better = [e for e in rivals if e.mean > entry.mean and not alike(e.accuracies, entry.accuracies)]
        found.append(1 + len(better))
    return found


def _place(entry: Entry) -> tuple[str, str, float]:
    return entry.dataset, entry.model, entry.level


def records(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Return entries as plain data for a page, with printed names, intervals and ranks."""
    return [
        {
            "dataset": display("dataset", entry.dataset),
            "model": display("model", entry.model),
            "method": display("method", entry.method),
            "n": len(entry.accuracies),
            "accuracy": round(entry.mean, 3),
            "half": None if entry.half is None else round(entry.half, 3),
            "sparsity": _rounded(entry.costs["sparsity"]),
            "flops": _rounded(entry.costs.get("train_flops_ratio")),
            "epochs": entry.epochs,
            "rank": rank,
            "command": entry.command,
            "runs": list(entry.runs),
            "source": entry.source,
            "who": entry.who,
            "hardware": entry.hardware,
            "note": entry.note,
        }
        for entry, rank in zip(entries, ranks(entries), strict=True)
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)
