"""The verbs of the command line; the module of a verb is imported on use."""

from __future__ import annotations

import importlib
from types import ModuleType

VERBS = {
    "train": "train a network, or a grid with -m; repeat the command to continue or skip",
    "plan": "show masks and cost of a run without training it",
    "list": "list methods, models, datasets, experiments, ...",
    "status": "show the progress of the runs of a folder, live with --watch",
    "clean": "remove the runs of a folder that failed, were stopped or never began",
    "report": "tabulate the runs of a folder, or write a page with charts",
    "compare": "show how two runs differ: configuration, numbers, masks",
    "dashboard": "lay out the panels of a Weights & Biases workspace",
    "evaluate": "measure a finished run on other data, with calibration and accuracy per class",
    "export": "write the final network of a run without its dead channels, for plain PyTorch",
    "reproduce": "run published results under their protocol, and report which results hold",
    "bench": "measure ratios of step times on this machine",
    "build-kernels": "compile the sparse kernels for this machine ahead of their first use",
    "completion": "print the shell code for tab completion",
}


def module_of(verb: str) -> ModuleType:
    """Import the module of a verb."""
    return importlib.import_module(f"sparsebench.app.cli.{verb.replace('-', '_')}")
