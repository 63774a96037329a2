"""The command line: one verb per file, and nothing heavy imported before a verb needs it."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType

from sparsebench.app.conf import make_importable, search_path

VERBS = {
    "train": "train a network, or a grid with -m; the same command again continues or skips",
    "plan": "show what would be masked and what it would cost, without training",
    "list": "list methods, models, datasets, experiments, ...",
    "status": "show how far the runs of a folder are, live with --watch",
    "report": "tabulate the runs of a folder, or show them in a page with charts",
    "compare": "show in what two runs differ: configuration, numbers, masks",
    "dashboard": "lay out the panels of a Weights & Biases workspace",
    "export": "write the final network of a run without its dead channels, for plain PyTorch",
    "bench": "measure ratios of step times on this machine",
    "completion": "print the shell code for tab completion",
}

USAGE = """sparsebench: train sparse neural networks, compare methods on equal terms, and believe the numbers.

usage: sparsebench VERB [ARGUMENT ...]

{verbs}

examples:
  sparsebench train method=rigl model=resnet20 dataset=cifar10 sparsity=0.95
  sparsebench train -m method=rigl,dst_ee sparsity=0.9,0.95 seed=0,1,2
  sparsebench report outputs
  sparsebench train --help           every group and key of the configuration
"""


def module_of(verb: str) -> ModuleType:
    """Import the module of a verb."""
    return importlib.import_module(f"sparsebench.app.{'listing' if verb == 'list' else verb}")


def main(argv: list[str] | None = None) -> None:
    """Dispatch to a verb; exit with 2 and one clear line when the input is wrong."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE.format(verbs="\n".join(f"  {verb:<12}{text}" for verb, text in VERBS.items())))
        return
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"sparsebench {version('sparsebench')}")
        return
    verb, *rest = arguments
    if verb not in VERBS:
        from sparsebench.app.errors import near, stop

        stop(f"unknown verb {verb!r}{near(verb, VERBS)}; verbs are {', '.join(VERBS)}")
    make_importable(search_path(rest)[1:])
    try:
        module_of(verb).main(rest)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("sparsebench: interrupted; the same command continues", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader, head for example, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
