"""``sparsebench evaluate RUN``: measure a finished run on other data, and show which classes lose accuracy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsebench.app.cli.arguments import Parser
from sparsebench.app.errors import USER_ERRORS, stop
from sparsebench.runs.files import EVALUATIONS

_MEASURES = ("accuracy", "nll", "ece", "brier")
_SPLITS = ("test", "validation", "train")
_WORST = 5


def main(arguments: list[str]) -> None:
    """Measure a run, save the numbers in its folder, and print them."""
    given = parser().parse_intermixed_args(arguments)
    overrides = [*given.override]
    try:
        found = measure(given.run, overrides, split=given.split)
        other = measure(given.against, overrides, split=given.split) if given.against else None
    except USER_ERRORS as error:
        stop(str(error))
    if given.json:
        print(json.dumps([found, *([other] if other else [])], indent=1))
    else:
        _show(given.run, found, given.against, other)


def parser() -> Parser:
    """Return the parser of the arguments."""
    parser = Parser(
        "evaluate",
        "Measure the final network of a run: accuracy, negative log-likelihood, calibration error and Brier score, and "
        f"accuracy per class. The numbers are kept in RUN/{EVALUATIONS}; the result is not changed.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument(
        "override",
        nargs="*",
        help="other data: dataset=NAME, dataset.KEY=VALUE, data_root=FOLDER; by default the run's",
    )
    parser.add_argument("--split", choices=_SPLITS, default="test", help="images to use (test)")
    parser.add_argument(
        "--against", type=Path, metavar="RUN", help="another run, such as the dense one, to compare class by class"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def measure(folder: Path, overrides: list[str], *, split: str) -> dict[str, Any]:
    """Measure one run and save the numbers in its folder."""
    from sparsebench.app.config.check import check_overrides
    from sparsebench.app.process.evaluation import evaluate, note
    from sparsebench.app.process.finished import load

    check_overrides(overrides)
    found = evaluate(load(folder), split=split, overrides=overrides)
    note(folder, found)
    return found


def _show(run: Path, found: Mapping[str, Any], against: Path | None, other: Mapping[str, Any] | None) -> None:
    print(f"{run}: {found['images']:,} {found['split']} images of {found['dataset']}")
    for name in _MEASURES:
        beside = "" if other is None else f"   {other[name]:.4f} of {against}"
        print(f"  {name:<9}{found[name]:.4f}{beside}")
    each = found["class_accuracy"]
    if other is None:
        ranked = sorted((value, number) for number, value in enumerate(each) if value is not None)[:_WORST]
        print("lowest classes: " + ", ".join(f"{number}: {value:.4f}" for value, number in ranked))
        return
    pairs = zip(each, other["class_accuracy"], strict=True)
    losses = [(a - b, number) for number, (a, b) in enumerate(pairs) if a is not None and b is not None]
    lost = [f"{number}: {change:+.4f}" for change, number in sorted(losses)[:_WORST] if change < 0]
    print("classes that lose most: " + (", ".join(lost) or "none"))
