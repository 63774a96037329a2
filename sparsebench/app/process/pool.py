"""A pool of warm processes that run the cells of a grid: one per core, group of cores or GPU.

Libraries are imported once, in a server from which the workers are forked; a worker keeps cached data from one cell to
the next. If a worker dies, only its cell fails, and a new worker replaces it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any

from sparsebench.app.process.placement import Place
from sparsebench.app.process.sockets import shorten_socket_folder

_WARM = [
    "sparsebench.app.config.build",
    "sparsebench.app.process.result",
    "sparsebench.app.process.worker",
    "sparsebench.app.process.helpers",
]
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Job:
    """One cell for a worker: its display name and the arguments of Hydra's ``run_job``."""

    name: str
    arguments: Mapping[str, Any]


def warm_up(place: Place) -> None:
    """Start the server from which workers are forked; it imports in the background."""
    from multiprocessing.forkserver import ensure_running

    shorten_socket_folder()
    with _environment(place):
        multiprocessing.get_context("forkserver").set_forkserver_preload(_WARM)
        ensure_running()


class Pool:
    """Worker processes that wait for jobs.

    Args:
        divided: cores and GPUs of each worker.
    """

    def __init__(self, divided: Sequence[Place]) -> None:
        self.divided = divided
        self.workers: list[_Worker] = []

    def run(self, jobs: Sequence[Job]) -> list[Any]:
        """Run all jobs; return for each its result, or the exception that ended it or its process."""
        waiting, answers = deque(enumerate(jobs)), [None] * len(jobs)
        self.workers = [_Worker(place) for place in self.divided[: len(jobs)]]
        try:
            for worker in self.workers:
                worker.begin(waiting)
            while busy := [worker for worker in self.workers if worker.number is not None]:
                ready = connection.wait([w.pipe for w in busy])
                for worker in [w for w in busy if w.pipe in ready]:
                    assert worker.number is not None
                    answers[worker.number] = worker.answer()
                    if not worker.lives and waiting:
                        self.workers[self.workers.index(worker)] = worker = _Worker(worker.place)
                    worker.begin(waiting)
        finally:
            for worker in self.workers:
                worker.end()
        return answers


class _Worker:
    def __init__(self, place: Place) -> None:
        self.place, self.number, self.lives = place, None, True
        self.pipe, theirs = multiprocessing.Pipe()
        warm_up(place)
        self.process = multiprocessing.get_context("forkserver").Process(target=_serve, args=(theirs, place))
        self.process.start()
        theirs.close()
        self.number: int | None

    def begin(self, waiting: deque[tuple[int, Job]]) -> None:
        """Take the next job, if there is one."""
        self.number = None
        if waiting and self.lives:
            self.number, job = waiting.popleft()
            with contextlib.suppress(BrokenPipeError):  # the process is dead, which reading its answer reports
                self.pipe.send(job)

    def answer(self) -> Any:
        """Receive the answer to the job."""
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.lives = False
            self.process.join()
            return RuntimeError(f"its process died with exit code {self.process.exitcode}")

    def end(self) -> None:
        """End the process in any state; its work can be continued."""
        if self.number is not None and self.process.is_alive():
            self.process.terminate()
        self.pipe.close()
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()


def _serve(pipe: connection.Connection, place: Place) -> None:
    """Run jobs until the pool sends no more, or until told to exit."""
    from sparsebench.app.process.console import speak_for

    with contextlib.suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        _settle(place)
        while True:
            job: Job = pipe.recv()
            speak_for(f"[{job.name}] ")
            answer = _run(job)
            speak_for("")
            try:
                pipe.send(answer)
            except (TypeError, AttributeError, ValueError) as error:  # the exception cannot be pickled
                pipe.send(RuntimeError(str(error)))


def _run(job: Job) -> Any:
    from hydra.core.utils import run_job, setup_globals

    from sparsebench.app.config.compose import register_resolvers

    setup_globals()
    register_resolvers()
    try:
        return run_job(**job.arguments)
    except Exception as error:
        return error
    finally:
        _tidy()


def _settle(place: Place) -> None:
    """Pin this worker to its cores and GPUs, exit with the parent, and ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    if place.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, place.cores)
    if place.gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = place.gpus
    os.environ.update({name: str(place.threads) for name in _THREADS})
    import torch

    torch.set_num_threads(place.threads)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _leave(number: int, frame: Any) -> None:
    """Exit as after Ctrl-C, so that processes started by a run end too."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise KeyboardInterrupt


def _tidy() -> None:
    """Free the memory of a GPU between two cells."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@contextlib.contextmanager
def _environment(place: Place) -> Iterator[None]:
    """Set environment variables for new processes only, leaving the launching process unchanged afterwards."""
    # without NVML, querying GPUs initialises CUDA, and forked processes could not use them
    wanted = {**{name: str(place.threads) for name in _THREADS}, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
