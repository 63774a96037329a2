"""Rank of this process in a run: variables of schedulers and launchers count only where they apply.

A run of one device has no ranks, wherever it was started: ``srun --ntasks=4`` or a left-over ``RANK=1`` mean other
things than this run. A run of several devices is one where SLURM has started one task for each of them; otherwise
Lightning starts them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Mapping
from typing import Any

TOLD = (
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT",
    "TORCHELASTIC_RUN_ID", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS",
    "SLURM_NTASKS_PER_NODE", "LSB_JOBID", "LSB_DJOB_RANKFILE", "JSM_NAMESPACE_RANK", "JSM_NAMESPACE_LOCAL_RANK",
    "JSM_NAMESPACE_SIZE", "PMI_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK",
    "OMPI_COMM_WORLD_SIZE",
)  # fmt: skip
"""Variables by which Lightning and others tell the ranks of one run; the number of a job is not among them."""


def is_several(trainer: Mapping[str, Any]) -> bool:
    """Return True if a run is one of several processes, by its trainer settings."""
    return str(trainer["strategy"]).startswith("ddp") or trainer["devices"] not in (1, "1") or trainer["num_nodes"] > 1


def started_by_slurm(trainer: Mapping[str, Any]) -> bool:
    """Return True if SLURM has started all processes of this run already, one task each.

    Raises:
        ValueError: it has started another number of tasks than the run has processes.
    """
    tasks = _number("SLURM_STEP_NUM_TASKS", 1)
    if tasks < 2 or not is_several(trainer):
        return False
    devices, nodes = trainer["devices"], trainer["num_nodes"]
    wanted = _number_of(devices)
    if wanted is not None and wanted * nodes != tasks:
        raise ValueError(
            f"srun has started {tasks} tasks, trainer.devices={devices} on {nodes} node(s) needs {wanted * nodes}: "
            f"give srun --ntasks={wanted * nodes}, or --ntasks=1 to let sparsebench start its processes on one node"
        )
    return True


def slurm_rank() -> int:
    """Return the number of this task among those that SLURM has started."""
    return _number("SLURM_PROCID", 0)


@contextlib.contextmanager
def single_process() -> Generator[None]:
    """Hide every rank that the environment tells of, for a run of one process; all is put back afterwards."""
    from lightning.pytorch.utilities import rank_zero_only

    hidden = {name: os.environ.pop(name) for name in TOLD if name in os.environ}
    before, rank_zero_only.rank = getattr(rank_zero_only, "rank", 0), 0  # read from the environment when imported
    try:
        yield
    finally:
        os.environ.update(hidden)
        rank_zero_only.rank = before


def environment_without_ranks() -> dict[str, str]:
    """Return the environment for processes among which Lightning is to assign the ranks itself."""
    return {name: value for name, value in os.environ.items() if name not in TOLD and not name.startswith("SLURM_")}


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else default


def _number_of(devices: Any) -> int | None:
    """Return how many devices a setting asks for, or None where only the machine can tell."""
    if isinstance(devices, list):
        return len(devices)
    text = str(devices)
    return int(text) if text.isdecimal() else None
