"""Threads of a training on the CPU: one for a small network, unless the environment sets a number."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsebench.fits import Setup

SET_BY = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Environment variables that set the number of threads."""
SMALL = 5e9
"""FLOPs of a training step up to which one thread is used: the work is too little to divide.

On a busy machine, further threads wait for each other much longer than they compute.
"""


@contextlib.contextmanager
def restoring_threads() -> Iterator[None]:
    """Restore the number of threads at the end, so that the next run of this process chooses its own."""
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def choose_threads(setup: Setup, config: Mapping[str, Any]) -> None:
    """Use one thread if a training step on the CPU is small and the environment sets no number."""
    import torch

    from sparsebench.cost.flops import dense_flops

    on_cpu = config["trainer"]["accelerator"] == "cpu" or not torch.cuda.is_available()
    if torch.get_num_threads() == 1 or not on_cpu or any(os.environ.get(name) for name in SET_BY):
        return
    forward = dense_flops(setup.costs(setup.network()))
    if 3 * forward * config["dataset"]["batch_size"] <= SMALL:
        torch.set_num_threads(1)
