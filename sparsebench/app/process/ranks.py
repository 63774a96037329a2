"""Rank of this process in a run: variables of schedulers and launchers count only where they apply.

A run on one device has no ranks, however it was started: ``srun --ntasks=4`` or a left-over ``RANK=1`` do not refer to
this run. For a run on several devices, either SLURM has started one task per device, or Lightning starts the processes.
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
"""Variables by which Lightning and others number the ranks of one run; job numbers are not included."""


def is_several(trainer: Mapping[str, Any]) -> bool:
    """Return True if a run is one of several processes, by its trainer settings."""
    return str(trainer["strategy"]).startswith("ddp") or trainer["devices"] not in (1, "1") or trainer["num_nodes"] > 1


def started_by_slurm(trainer: Mapping[str, Any]) -> bool:
    """Return True if SLURM has started all processes of this run already, one task each.

    Raises:
        ValueError: SLURM's number of tasks differs from the run's number of processes.
    """
    tasks = _number("SLURM_STEP_NUM_TASKS", 1)
    if tasks < 2 or not is_several(trainer):
        return False
    devices, nodes = trainer["devices"], trainer["num_nodes"]
    wanted = _number_of(devices)
    if wanted is not None and wanted * nodes != tasks:
        raise ValueError(
            f"srun has started {tasks} tasks, but trainer.devices={devices} on {nodes} node(s) needs {wanted * nodes}: "
            f"give srun --ntasks={wanted * nodes}, or --ntasks=1 to let sparsebench start its processes on one node"
        )
    return True


def slurm_rank() -> int:
    """Return the number of this task among those that SLURM has started."""
    return _number("SLURM_PROCID", 0)


@contextlib.contextmanager
def single_process() -> Generator[None]:
    """Hide the environment's rank variables from a run of one process, and restore them afterwards."""
    from lightning.pytorch.utilities import rank_zero_only

    hidden = {name: os.environ.pop(name) for name in TOLD if name in os.environ}
    before, rank_zero_only.rank = getattr(rank_zero_only, "rank", 0), 0  # read from the environment when imported
    try:
        yield
    finally:
        os.environ.update(hidden)
        rank_zero_only.rank = before


def environment_without_ranks() -> dict[str, str]:
    """Return the environment for processes to which Lightning assigns the ranks itself."""
    return {name: value for name, value in os.environ.items() if name not in TOLD and not name.startswith("SLURM_")}


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else default


def _number_of(devices: Any) -> int | None:
    """Return the number of devices of a setting, or None if it depends on the machine."""
    if isinstance(devices, list):
        return len(devices)
    text = str(devices)
    return int(text) if text.isdecimal() else None
