"""Launch the cells of a grid on a pool of warm processes (see ``sparsebench/app/process/pool.py``).

Hydra imports this module whenever it looks for plugins: nothing heavy may be imported here.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, configure_log
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict


class PoolLauncher(Launcher):
    """Run jobs on warm processes of this machine.

    Args:
        workers: number of workers; by default as many as fit.
        threads: threads of each worker.
        per_gpu: workers on each GPU.
        bind: whether to bind each worker to separate cores.

    Attributes:
        labels: override of a job -> prefix of each line of its output; by default the job's overrides.
    """

    def __init__(self, workers: int | None, threads: int | None, per_gpu: int, bind: bool) -> None:
        self.options = {"workers": workers, "threads": threads, "per_gpu": per_gpu, "bind": bind}
        self.labels: dict[str, str] = {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store the parts that jobs need."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; a job that fails, or whose process dies, does not affect the others."""
        from sparsebench.app.grid.cells import varying
        from sparsebench.app.process.placement import places
        from sparsebench.app.process.pool import Job, Pool, warm_up

        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        warm_up(places(**self.options)[0])
        composed = [self._compose(job, initial_job_idx + number) for number, job in enumerate(job_overrides)]
        devices = max(_devices(config) for config in composed)
        divided = places(**self.options, devices=devices)
        each = f"{divided[0].threads} thread{'s' if divided[0].threads > 1 else ''}"
        number = min(len(divided), len(composed))
        print(f"sparsebench: {number} process{'es' if number > 1 else ''} of {each} each", flush=True)
        plain = varying(job_overrides, first=initial_job_idx)
        names = [self.labels.get(" ".join(job), name) for job, name in zip(job_overrides, plain, strict=True)]
        jobs = [Job(name, self._arguments(config)) for name, config in zip(names, composed, strict=True)]
        return [_returned(answer) for answer in Pool(divided).run(jobs)]

    def _compose(self, overrides: Sequence[str], number: int) -> DictConfig:
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = f"{config.hydra.job.name}_{number}", number
        return config

    def _arguments(self, config: DictConfig) -> dict[str, Any]:
        return {
            "hydra_context": self.hydra_context,
            "task_function": self.task_function,
            "config": config,
            "job_dir_key": "hydra.sweep.dir",
            "job_subdir_key": "hydra.sweep.subdir",
        }


def _devices(config: DictConfig) -> int:
    """Return the devices of a run; a run on all devices gets one worker with all of them."""
    from sparsebench.runs.folder import RunFolder

    frozen = config.get("cell")
    devices = config.trainer.devices if frozen is None else RunFolder(Path(frozen)).config()["trainer"]["devices"]
    return devices if isinstance(devices, int) and devices > 0 else 1


def _returned(answer: Any) -> JobReturn:
    if isinstance(answer, JobReturn):
        return answer
    returned = JobReturn(status=JobStatus.FAILED)
    returned.return_value = answer
    return returned
