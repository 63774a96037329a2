"""Reproduction of published cells: their training setup, and whether our runs agree with them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from sparsebench.results.published import PUBLISHED, Published, load_yaml
from sparsebench.results.schema import is_known
from sparsebench.results.significance import t_quantile

ERROR_KINDS = ("std", "se", "ci95")
MEASURES = ("test_accuracy", "val_accuracy")
COMPACT = ("live_units", "compact_bytes", "compact_flops")
"""Published measures of a perceptron without its dead units, which ``analysis.compact`` takes from the weights."""


@dataclass(frozen=True)
class Recipe:
    """The training setup of a published cell; fields as explained at the head of ``published.yaml``.

    Attributes:
        preset: option of ``conf/experiment`` that runs it.
        batch: images of a step.
        optimizer: dotted name of the class; None if it differs between cells.
        lr: first learning rate.
        momentum: None if the optimizer has none.
        nesterov: None if the optimizer has none.
        weight_decay: weight decay of the optimizer.
        decays: ``all`` parameters, ``weights`` only, or ``none``.
        schedule: option of ``conf/schedule``.
        epochs: None if the length is given in steps.
        update: when masks change.
        split: how validation images are held out.
        checkpoint: which weights are reported.
        measure: key of ``result.json`` that is compared.
        n: number of published runs; None if not stated.
        margin: points of accuracy within which the interval of the difference must lie.
        deviations: how our preset differs from the published protocol.
    """

    preset: str
    batch: int
    optimizer: str | None
    lr: float
    momentum: float | None
    nesterov: bool | None
    weight_decay: float
    decays: str
    schedule: str
    epochs: int | None
    update: str
    split: str
    checkpoint: str
    measure: str
    n: int | None
    margin: float
    deviations: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """A published number that can be reproduced by a run.

    Attributes:
        published: the entry of the registry.
        recipe: how it was trained.
        overrides: what the cell changes in the preset.
        error: published error in points, or None.
        error_kind: one of ``ERROR_KINDS``, or None.
        measures: published numbers other than accuracy, by key of ``result.json`` or name in ``COMPACT``.
    """

    published: Published
    recipe: Recipe
    overrides: tuple[str, ...]
    error: float | None
    error_kind: str | None
    measures: Mapping[str, Any]

    @property
    def id(self) -> str:
        """The id of the registry entry."""
        return self.published.id

    @property
    def arguments(self) -> list[str]:
        """The overrides of ``sparsebench train`` that run the cell, without seeds."""
        return [f"experiment={self.recipe.preset}", *self.overrides]

    @property
    def standard_error(self) -> float | None:
        """Standard error of the published mean in points, or None if unknown."""
        if self.error is None:
            return None
        if self.error_kind == "std":
            runs = self.published.seeds or self.recipe.n
            return self.error / math.sqrt(runs) if runs else None
        return self.error if self.error_kind == "se" else self.error / 1.96


@dataclass(frozen=True)
class Verdict:
    """Our runs beside a published number, in points of accuracy.

    Attributes:
        n: number of our runs.
        mean: mean of our runs; None without runs.
        sd: sample standard deviation of our runs; None below two runs.
        difference: ours less published.
        interval: 95 % interval of the difference (Welch); None below two runs.
        word: ``reproduced`` (the interval lies within the margin), ``differs`` (it does not, and zero is outside of
            it), ``undecided`` or ``not run``.
    """

    n: int
    mean: float | None
    sd: float | None
    difference: float | None
    interval: tuple[float, float] | None
    word: str

    @property
    def se(self) -> float | None:
        """Standard error of our mean; None below two runs."""
        return None if self.sd is None else self.sd / math.sqrt(self.n)


def tier(
    evidence: str, verdict: Verdict | None = None, commits: Sequence[str] = (), hardware: Sequence[str] = ()
) -> str:
    """Return how far a published value is verified.

    ``claimed`` if it was read at its source, ``second hand`` if another paper quotes it, and ``reproduced here`` with
    n, commit and hardware if our runs agree. Runs that disagree or do not decide are named after it.

    Args:
        evidence: evidence of the entry, ``read`` or ``second_hand``.
        verdict: verdict on our runs under its protocol.
        commits: commits of the code that ran them.
        hardware: processors and GPUs that ran them.
    """
    known = "second hand" if evidence == "second_hand" else "claimed"
    if verdict is None or not verdict.n:
        return known
    where = f"(n = {verdict.n}, {', '.join([', '.join(commits) or 'commit not recorded', *hardware])})"
    return f"reproduced here {where}" if verdict.word == "reproduced" else f"{known}; {verdict.word} here {where}"


def load_cells(path: Path = PUBLISHED) -> tuple[Cell, ...]:
    """Return the cells of the registry that can be run.

    Raises:
        ValueError: an entry or a recipe is incomplete; the message names it.
    """
    return _load(path)


@lru_cache(maxsize=4)
def _load(path: Path) -> tuple[Cell, ...]:
    document = load_yaml(path.read_text(encoding="utf-8"))
    for name, values in document.get("recipes", {}).items():
        _recipe(f"recipe {name}", values)
    return tuple(_cell(entry) for entry in document["entries"] if _sound(entry) and entry.get("recipe") is not None)


def _sound(entry: Mapping[str, Any]) -> bool:
    error, kind = entry.get("error"), entry.get("error_kind")
    if (error is None) != (kind is None):
        raise ValueError(f"entry {entry['id']}: error and error_kind belong together, got {error} and {kind}")
    if kind is not None and kind not in ERROR_KINDS:
        raise ValueError(f"entry {entry['id']}: error_kind {kind!r} is unknown, allowed are {', '.join(ERROR_KINDS)}")
    return True


def _cell(entry: Mapping[str, Any]) -> Cell:
    if entry.get("value") is None:
        raise ValueError(f"entry {entry['id']}: a cell that can be run needs a value to be compared with")
    missing = [field.name for field in fields(Published) if field.name not in entry]
    if missing:
        raise ValueError(f"entry {entry['id']}: it lacks {', '.join(missing)}")
    published = Published(**{field.name: entry[field.name] for field in fields(Published)})
    recipe = _recipe(f"entry {entry['id']}", entry["recipe"])
    overrides = tuple(str(override) for override in entry.get("overrides") or ())
    measures = dict(entry.get("measures") or {})
    if unknown := [name for name in measures if not is_known(name) and name not in COMPACT]:
        known = f"a key of a result nor one of {', '.join(COMPACT)}"
        raise ValueError(f"entry {entry['id']}: measure {unknown[0]!r} is neither {known}")
    return Cell(published, recipe, overrides, entry.get("error"), entry.get("error_kind"), measures)


def _recipe(where: str, values: Any) -> Recipe:
    names = [field.name for field in fields(Recipe)]
    missing = [name for name in names if name not in (values or {})]
    unknown = [name for name in values or {} if name not in names]
    if missing or unknown:
        what = f"lacks {', '.join(missing)}" if missing else f"has no field {', '.join(unknown)}"
        raise ValueError(f"{where}: its recipe {what}")
    if values["measure"] not in MEASURES or not values["margin"] > 0:
        raise ValueError(f"{where}: measure must be one of {', '.join(MEASURES)}, and margin above 0")
    return Recipe(**{**values, "deviations": tuple(values["deviations"])})


def judge(cell: Cell, accuracies: Sequence[float]) -> Verdict:
    """Compare our accuracies, in percent and one per seed, with a published cell.

    The interval is Welch's. A published standard error of unknown n counts as exact, and a missing error as zero.
    """
    count, published = len(accuracies), cell.published.value
    assert published is not None
    if count == 0:
        return Verdict(0, None, None, None, None, "not run")
    mean = statistics.fmean(accuracies)
    if count == 1:
        return Verdict(1, mean, None, mean - published, None, "undecided")
    sd = statistics.stdev(accuracies)
    half = _half_width(sd, count, cell.standard_error or 0.0, cell.published.seeds or cell.recipe.n)
    difference = mean - published
    low, high = difference - half, difference + half
    inside = -cell.recipe.margin <= low and high <= cell.recipe.margin
    word = "reproduced" if inside else "differs" if low > 0 or high < 0 else "undecided"
    return Verdict(count, mean, sd, difference, (low, high), word)


def _half_width(sd: float, count: int, error: float, runs: int | None) -> float:
    """Return half the 95 % interval of a difference of means, with the degrees of freedom of Welch-Satterthwaite."""
    ours, theirs = sd**2 / count, error**2
    if ours + theirs == 0:
        return 0.0
    inverse = ours**2 / (count - 1) + (theirs**2 / (runs - 1) if runs and runs > 1 else 0.0)
    freedom = (ours + theirs) ** 2 / inverse if inverse else math.inf
    return t_quantile(freedom) * math.sqrt(ours + theirs)
