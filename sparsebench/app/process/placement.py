"""Divide the machine's cores and GPUs among parallel processes."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """The cores and GPUs of one worker.

    Attributes:
        threads: threads of each operation.
        cores: cores to which the worker is bound; none leaves this to the system.
        gpus: visible GPUs, in the form of ``CUDA_VISIBLE_DEVICES``; None does not change the variable.
    """

    threads: int
    cores: tuple[int, ...] = ()
    gpus: str | None = None


def places(
    *, workers: int | None = None, threads: int | None = None, per_gpu: int = 1, devices: int = 1, bind: bool = False
) -> list[Place]:
    """Divide this machine among workers.

    Args:
        workers: number of workers; by default as many as fit.
        threads: threads of each worker; by default one, or with ``workers`` an equal share of the cores.
        per_gpu: workers on each GPU, if there are GPUs.
        devices: devices, or processes, of each cell.
        bind: whether to bind each worker to separate cores.

    Raises:
        ValueError: a number is below 1.
    """
    for name, value in (("workers", workers), ("threads", threads), ("per_gpu", per_gpu), ("devices", devices)):
        if value is not None and value < 1:
            raise ValueError(f"hydra.launcher.{name}={value} is impossible: give at least 1, or null where allowed")
    cores, gpus = own_cores(), visible_gpus()
    if gpus:
        groups = [",".join(gpus[i : i + devices]) for i in range(0, len(gpus) - devices + 1, devices)]
        seen: list[str | None] = [*(groups or [",".join(gpus)])] * per_gpu
        seen = seen[:workers] if workers else seen
        each = threads or max(1, len(cores) // len(seen))
    else:
        each = threads or (max(1, len(cores) // (workers * devices)) if workers else 1)
        seen = [None] * (workers or max(1, len(cores) // (each * devices)))
    width = max(1, len(cores) // len(seen))
    bound = [tuple(cores[i * width : (i + 1) * width]) if bind else () for i in range(len(seen))]
    return [Place(each, own, gpu) for own, gpu in zip(bound, seen, strict=True)]


def own_cores() -> list[int]:
    """Return the cores that this process may use; all cores if the system cannot tell, as on macOS."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def visible_gpus() -> list[str]:
    """Return the usable GPUs without initialising CUDA, after which a process can no longer be forked.

    ``CUDA_VISIBLE_DEVICES`` is used only if there is a GPU, because clusters and shells also set it on other machines.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        found = any(os.path.exists(trace) for trace in _TRACES)
        return [name for name in named.split(",") if name.strip() not in ("", "-1")] if found else []
    with contextlib.suppress(OSError):
        names = sorted(name for name in os.listdir(_DRIVER))
        return [str(number) for number in range(len(names))]
    return []


_DRIVER = "/proc/driver/nvidia/gpus"
_TRACES = (_DRIVER, "/dev/nvidiactl", "/dev/nvidia0", "/dev/nvhost-ctrl-gpu", "/dev/dxg", "/dev/kfd")
"""Files that show that a machine has GPUs: drivers of NVIDIA (also in containers and on Jetson), WSL and AMD."""
