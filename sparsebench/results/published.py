"""Published numbers, and the search for the number to compare with a row."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

PUBLISHED = Path(__file__).with_name("published.yaml")
REPRODUCED = (
    PUBLISHED.with_name("reproduced.json"),
    PUBLISHED.parents[2] / "docs" / "results" / "reproduced.json",
)
"""Where the verdicts of ``sparsebench reproduce`` lie: in the package, or in its checkout."""
EQUAL = 5e-4
"""Two sparsity targets count as equal if they differ by less, since papers round to three digits."""
NEAR = 5e-3
"""Two sparsities that result from training count as equal if they differ by less."""

# Different names that papers and this package use for the same thing.
_MODELS = {"resnet18": ("resnet18_cifar",), "resnet50": ("resnet50_cifar",)}
_METHODS = {
    "magnitude": ("prune_finetune",),
    "ste": ("ste_magnitude",),
    "rigl": ("rigl_itop",),
    "lottery": ("lottery_ticket",),
    "prox": ("prox_sgd",),
}
_SMALL_IMAGES = ("cifar10", "cifar100", "tiny_imagenet", "fashion_mnist", "mnist")


def load_yaml(text: str) -> Any:
    """Load YAML safely with the C parser if available, which is ten times faster."""
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


@dataclass(frozen=True)
class Published:
    """One number read from its source; the head of ``published.yaml`` explains the fields."""

    id: str
    paper: str
    arxiv: str | None
    table: str
    method: str
    model: str | None
    dataset: str | None
    sparsity: float | None
    metric: str
    value: float | None
    std: float | None
    seeds: int | None
    epochs: int | None
    train_flops_ratio: float | None
    inference_flops_ratio: float | None
    evidence: str
    protocol: str

    @property
    def distribution(self) -> str | None:
        """First word of the distribution that the protocol states, or None."""
        stated = dict(part.split("=", 1) for part in self.protocol.split("; ") if "=" in part)
        words = stated.get("distribution", "").replace(",", " ").split()
        return words[0] if words and words[0] in ("erk", "er", "uniform", "global") else None


@dataclass(frozen=True)
class Match:
    """A published number that matches one of ours, and the differences between the two trainings.

    Attributes:
        published: the number.
        differences: differences in protocol; empty if epochs and distribution are the same.
    """

    published: Published
    differences: tuple[str, ...]

    @property
    def protocol(self) -> str:
        """Return as text whether the protocols match."""
        return "; ".join(self.differences) or "same epochs, distribution"


@lru_cache(maxsize=1)
def load_published(path: Path = PUBLISHED) -> tuple[Published, ...]:
    """Load the registry of published numbers."""
    names = [field.name for field in fields(Published)]
    return tuple(Published(**{name: entry[name] for name in names}) for entry in _document(path)["entries"])


def citation(paper: str, path: Path = PUBLISHED) -> str:
    """Return authors, title and year of a paper of the registry."""
    about = _document(path)["papers"][paper]
    first, *others = about["authors"].split(", ")
    source = f"arXiv {about['arxiv']}" if about["arxiv"] else about["venue"]
    return f"{first}{' et al.' if others else ''}, {about['title']}, {source}, {about['year'] or 'no year'}"


def verification(entry: Published) -> str:
    """Return how far a number is verified: ``claimed``, ``second hand`` or ``reproduced here``."""
    if _verdicts().get(entry.id) == "reproduced":
        return "reproduced here"
    return "second hand" if entry.evidence == "second_hand" else "claimed"


@lru_cache(maxsize=1)
def _verdicts() -> Mapping[str, str]:
    """Return the verdict on each cell that was run, from the file that the package or its checkout brings."""
    for path in REPRODUCED:
        if path.is_file():
            return {row["cell"]: row["verdict"] for row in json.loads(path.read_text(encoding="utf-8"))["rows"]}
    return {}


@lru_cache(maxsize=1)
def _document(path: Path) -> Mapping[str, Any]:
    return load_yaml(path.read_text(encoding="utf-8"))


def find(
    *,
    method: str,
    model: str,
    dataset: str,
    sparsity: float,
    recipe: str = "single",
    emerged: bool = False,
    entries: Iterable[Published] | None = None,
) -> list[Published]:
    """Return the published numbers for a method on a network and data set at equal sparsity.

    Args:
        method: our name of the method; a recipe other than ``single`` is looked up instead.
        model: our name of the network.
        dataset: our name of the data set.
        sparsity: share of zeros, 0 for dense.
        recipe: our name of the recipe.
        emerged: whether sparsity was measured, not requested; close values then count as equal.
        entries: published numbers to search; by default the whole registry.
    """
    name = method if recipe == "single" else recipe
    methods = (name, *_METHODS.get(name, ()))
    models = (model, *(_MODELS.get(model, ()) if dataset in _SMALL_IMAGES else ()))
    width = NEAR if emerged else EQUAL
    found = [
        entry
        for entry in (load_published() if entries is None else entries)
        if entry.method in methods and entry.model in models and entry.dataset == dataset
        if entry.value is not None and entry.sparsity is not None and abs(entry.sparsity - sparsity) < width
    ]
    return sorted(found, key=lambda entry: (methods.index(entry.method), abs((entry.sparsity or 0.0) - sparsity)))


def match(*, epochs: int, distribution: str | None, **wanted: Any) -> Match | None:
    """Return the published number with the nearest protocol, or None.

    Preferences, in order: under the method's own name; the same distribution, then one that is not stated; the nearest
    number of epochs by ratio; read at the source; with a standard deviation; over more seeds.

    Args:
        epochs: epochs of our training.
        distribution: distribution of our training; None for dense training, or if unknown.
        wanted: arguments of ``find``.
    """
    found = find(**wanted)
    if not found:
        return None
    dense = wanted["method"] == "dense" and wanted.get("recipe", "single") == "single"

    def distance(entry: Published) -> tuple[Any, ...]:
        length = float("inf")
        if entry.epochs and epochs:
            length = max(entry.epochs / epochs, epochs / entry.epochs)
        kind = 0 if dense else _distance(entry.distribution, distribution)
        named = entry.method != found[0].method
        return named, kind, length, entry.evidence != "read", entry.std is None, -(entry.seeds or 0)

    best = min(found, key=distance)
    return Match(best, tuple(_differences(best, epochs, None if dense else distribution, compare=not dense)))


def _distance(stated: str | None, ours: str | None) -> int:
    """Return 0 for the same distribution, 1 where one is not known, 2 for another one."""
    return 1 if stated is None or ours is None else 2 * (stated != ours)


def _differences(entry: Published, epochs: int, distribution: str | None, *, compare: bool) -> list[str]:
    found: list[str] = []
    if entry.epochs is None:
        found.append("epochs not stated")
    elif entry.epochs != epochs:
        found.append(f"epochs {epochs}, not {entry.epochs}")
    if compare and entry.distribution is None:
        found.append("distribution not stated")
    elif compare and entry.distribution != distribution:
        found.append(f"distribution {distribution or 'unknown'}, not {entry.distribution}")
    return found
