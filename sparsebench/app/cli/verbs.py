"""The verbs of the command line; the module of a verb is imported on use."""

from __future__ import annotations

import importlib
from types import ModuleType

VERBS = {
    "train": "train a network, or a grid with -m; the same command again continues or skips",
    "plan": "show what would be masked and what it would cost, without training",
    "list": "list methods, models, datasets, experiments, ...",
    "status": "show how far the runs of a folder are, live with --watch",
    "clean": "remove the runs of a folder that failed, were stopped or never began",
    "report": "tabulate the runs of a folder, or show them in a page with charts",
    "compare": "show in what two runs differ: configuration, numbers, masks",
    "dashboard": "lay out the panels of a Weights & Biases workspace",
    "evaluate": "measure a finished run on other data, with calibration and accuracy per class",
    "export": "write the final network of a run without its dead channels, for plain PyTorch",
    "reproduce": "run published results at their protocol, and say which hold",
    "bench": "measure ratios of step times on this machine",
    "build-kernels": "compile the sparse kernels for this machine ahead of their first use",
    "completion": "print the shell code for tab completion",
}


def module_of(verb: str) -> ModuleType:
    """Import the module of a verb."""
    return importlib.import_module(f"sparsebench.app.cli.{verb.replace('-', '_')}")
