"""Training curves from ``metrics.csv``: of a run, or of the stages of its recipe in sequence."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from sparsebench.results.collect import Finished
from sparsebench.results.schema import FORMER, is_known, shown_in
from sparsebench.runs.folder import RunFolder

Curves = dict[str, list[float | None]]
"""Values by column; ``step`` is one of them."""


@dataclass(frozen=True)
class Part:
    """One part of a training, such as a stage of a recipe.

    Attributes:
        first: number of steps before this part, by all networks together.
        files: metrics of the networks that are trained independently in this part.
    """

    first: int
    files: Sequence[Path]

    @property
    def present(self) -> list[Path]:
        """The files of the part that exist."""
        return [path for path in self.files if path.exists()]


def curves_of(run: Finished, points: int) -> tuple[Curves, list[str]]:
    """Return the curves of a run, thinned to about ``points`` points, and one line per damaged file.

    The stages of a recipe follow each other; networks that are trained in parallel form one curve, their mean. Instead
    of ``step``, ``at`` holds the epochs so far of all networks together, as in the result. Exploration and training
    cost accumulate from the first stage on.
    """
    parts, damaged = [part for part in parts_of(run) if part.present], list[str]()
    joined: Curves = {}
    for part in parts:
        found: list[Curves] = []
        for path in part.present:
            try:
                found.append(read_curves(path, max(2, points // len(parts))))
            except (ValueError, OSError) as error:
                why = " ".join(str(error).split())
                damaged.append(f"skipped: {path}: damaged ({why}); the result counts without it")
        if found:
            _append(joined, average(found), first=part.first, times=len(part.files))
    steps, epochs = run.result.get("steps"), run.result["epochs"]
    pace = epochs / steps if isinstance(steps, int | float) and steps else 1.0
    at = joined.pop("step", [])
    return {"at": [None if step is None else rounded(step * pace, 7) for step in at], **joined}, damaged


def parts_of(run: Finished) -> list[Part]:
    """Return the parts of a run in order: the run itself, then the stages of its recipe with separate metrics."""
    parts = [Part(0, [RunFolder(run.folder).metrics])]
    first = 0
    for cycle in run.result.get("cycles") or ():
        steps = cycle.get("stages") or {}  # not recorded by earlier versions
        alone = max(0, len(steps) - cycle.get("particles", 1))  # earlier stages, such as the ticket
        for names in [*([name] for name in [*steps][:alone]), [*steps][alone:]]:
            parts.append(Part(first, [_metrics_of_stage(run, name) for name in names]))
            first += sum(steps[name] for name in names)
    return parts


def _metrics_of_stage(run: Finished, name: str) -> Path:
    return RunFolder(RunFolder(run.folder).stage(name).logs).metrics


def read_curves(path: Path, points: int) -> Curves:
    """Read the drawn columns of a ``metrics.csv``, thinned but with the first and the last row.

    These are the curves of the schema, under current names, and all further numbers that a method has logged.

    Raises:
        ValueError: a cell is not a number.
    """
    head, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
    if len(lines) > points:
        lines = [lines[round(i * (len(lines) - 1) / (points - 1))] for i in range(points)]
    names = [FORMER.get(name, name) for name in next(csv.reader([head]), [])]
    if "step" not in names:
        raise ValueError("no column step")
    drawn = in_order(names)
    wanted = [(names.index(name), name, 9 if name == "step" else 4) for name in ("step", *drawn)]
    curves: Curves = {name: [] for _, name, _ in wanted}
    for cells in csv.reader(lines):
        for place, name, digits in wanted:
            given = place < len(cells) and cells[place]
            curves[name].append(rounded(cells[place], digits) if given else None)
    return {name: values for name, values in curves.items() if any(value is not None for value in values)}


def in_order(names: Iterable[str]) -> list[str]:
    """Return the names to draw: the schema's in its order, then further ones logged by a method."""
    names = dict.fromkeys(names)
    known = [key.name for key in shown_in("curve") if key.name in names]
    return [*known, *(name for name in names if not is_known(name))]


def average(members: Sequence[Curves]) -> Curves:
    """Return the mean of several curves at each step."""
    if len(members) == 1:
        return members[0]
    steps = sorted({step for member in members for step in member["step"] if step is not None})
    mean: Curves = {"step": [*steps]}
    for name in dict.fromkeys(name for member in members for name in member if name != "step"):
        known = [dict(zip(member["step"], member[name], strict=True)) for member in members if name in member]
        values = [[value for each in known if (value := each.get(step)) is not None] for step in steps]
        mean[name] = [rounded(fmean(found)) if found else None for found in values]
    return mean


def rounded(value: Any, digits: int = 4) -> float | None:
    """Return a number rounded to the digits that a chart can show, or None if it is not finite."""
    number = float(value)
    return float(f"{number:.{digits}g}") if math.isfinite(number) else None


def _append(curves: Curves, more: Curves, *, first: int, times: int) -> None:
    """Append a stage's curves, offset by its first step; one step stands for several networks."""
    before, own = len(curves.get("step", ())), more["step"]
    steps = [None if step is None else first + times * step for step in own]
    more = {**more, "step": steps}
    explored, cost = _last(curves, "explored"), _last(curves, "train_flops_ratio")
    if explored is not None and "explored" in more:
        more["explored"] = [None if value is None else max(explored, value) for value in more["explored"]]
    if cost is not None and "train_flops_ratio" in more:
        shares = [None if step is None else first / (step + times) for step in steps]
        more["train_flops_ratio"] = [
            None if share is None or value is None else rounded(share * cost + (1 - share) * value)
            for share, value in zip(shares, more["train_flops_ratio"], strict=True)
        ]
    for name in dict.fromkeys([*curves, *more]):
        curves[name] = [*curves.get(name, [None] * before), *more.get(name, [None] * len(own))]


def _last(curves: Curves, name: str) -> float | None:
    return next((value for value in reversed(curves.get(name, ())) if value is not None), None)
