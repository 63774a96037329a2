"""``sparsebench bench``: measure ratios of step times on this machine, in one process, interleaved."""

from __future__ import annotations

import importlib

from sparsebench.app.cli.bench.options import PARSERS
from sparsebench.app.errors import stop
from sparsebench.runs.messages import did_you_mean

SUBJECTS = {
    "channels": "small networks of live channels against masked and dense ones; a whole VR-PGE step",
    "execution": "products that skip zeros on a CPU against dense ones: layers, an MLP, a network, predictions",
    "overhead": "a step of each method between two updates, and of two published patterns, against a dense step",
    "updates": "one change of the masks of a whole network against two published patterns",
    "epochs": "whole trainings, with data, log and validation, against plain loops masked as in other programs",
    "input": "images per second from memory against a DataLoader",
    "loop": "microseconds that the training loop adds to a step",
    "nm": "products with 2:4 sparse weights on tensor cores against dense ones",
}

USAGE = """usage: sparsebench bench SUBJECT [ARGUMENT ...]

{subjects}

sparsebench bench SUBJECT --help shows the arguments. Every round measures every case; printed is the median of the
ratios within one round, with their range, next to a null ratio of a case with itself: trust only differences that
exceed its range.
"""


def main(arguments: list[str]) -> None:
    """Dispatch to a benchmark."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE.format(subjects="\n".join(f"  {name:<12}{text}" for name, text in SUBJECTS.items())))
        return
    subject, *rest = arguments
    if subject not in SUBJECTS:
        stop(f"unknown benchmark {subject!r}{did_you_mean(subject, SUBJECTS)}; there are {', '.join(SUBJECTS)}")
    options = PARSERS[subject]().parse_args(rest)
    try:
        module = importlib.import_module(f"sparsebench.app.cli.bench.{subject}")
        module.main(options, command=f"sparsebench bench {' '.join(arguments)}")
    except ValueError as error:
        stop(str(error))
