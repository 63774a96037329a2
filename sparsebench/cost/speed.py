"""Measured cost: step time, images per second and peak memory, with the hardware they were measured on."""

import os
import platform
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


class Stopwatch:
    """Accumulate wall time and samples over training steps, excluding warm-up and pauses.

    The first steps of each process compile, tune and fill caches, so they are excluded. A GPU runs asynchronously, so
    the stopwatch waits for it when it starts or stops, but never at each step.

    Args:
        warmup: number of steps to exclude at the beginning, and again after a resumption.
        device: where the steps run.

    Attributes:
        seconds: wall time of the counted steps, including data loading.
        samples: number of samples in these steps.
        steps: number of these steps.
    """

    def __init__(self, *, warmup: int = 3, device: torch.device | str = "cpu") -> None:
        if warmup < 0:
            raise ValueError(f"warmup = {warmup} is impossible: give the number of steps to exclude, 0 or more")
        self._device = torch.device(device)
        self._skip = warmup
        self._since: float | None = None
        self.seconds = 0.0
        self.samples = 0
        self.steps = 0

    def start(self) -> None:
        """Start or resume the clock, at the start of training and after each pause."""
        if self._since is None:
            self._since = self._now(settled=True)

    def lap(self, samples: int) -> None:
        """Count a finished training step of ``samples`` samples."""
        if self._since is None:
            raise ValueError("the stopwatch is not running: call start() before the first step and after each pause()")
        self._skip -= 1
        now = self._now(settled=self._skip == 0)
        if self._skip < 0:
            self.seconds += now - self._since
            self.samples += samples
            self.steps += 1
        self._since = now

    def pause(self) -> None:
        """Stop the clock during validation or a checkpoint; GPU work still in flight is waited for and counted."""
        if self._since is None:
            return
        if self._skip < 0:
            self.seconds += self._now(settled=True) - self._since
        self._since = None

    @property
    def images_per_second(self) -> float:
        """Samples per second of wall time; nan before the first counted step."""
        return self.samples / self.seconds if self.seconds else float("nan")

    @property
    def seconds_per_step(self) -> float:
        """Wall time per step; nan before the first counted step."""
        return self.seconds / self.steps if self.steps else float("nan")

    def state_dict(self) -> dict[str, Any]:
        """Return the measured totals."""
        return {"seconds": self.seconds, "samples": self.samples, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the totals that ``state_dict`` returned; the warm-up is repeated."""
        self.seconds, self.samples, self.steps = state["seconds"], state["samples"], state["steps"]

    def _now(self, *, settled: bool) -> float:
        if settled and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def reset_peak_memory(device: torch.device) -> None:
    """Restart the measurement of a GPU's peak memory, since a process may train several networks."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mb(device: torch.device | str = "cpu") -> float:
    """Return the peak memory in MiB: allocated tensors on a GPU, the whole process on a CPU.

    Args:
        device: where training runs; the GPU's figure counts from the last ``reset_peak_memory``.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # macOS reports bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def hardware() -> dict[str, Any]:
    """Describe the hardware and software of a measurement: processor, cores, threads, GPU, torch and platform."""
    return {
        "cpu": _cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
