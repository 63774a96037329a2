"""Named states of a run, each made once by one process and then read from disk."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_only

from sparsebench.fits.state import State
from sparsebench.runs.files import Stage
from sparsebench.runs.folder import RunFolder
from sparsebench.runs.lock import holder, take
from sparsebench.runs.lock import is_taken as is_busy

__all__ = ["Stages", "holder", "is_busy", "lock"]

_POLL = 0.1
_PATIENCE = 2.0


@dataclass(frozen=True)
class Stages:
    """The files of a run's stages.

    Args:
        folder: the run's folder.
        prefix: text before the name of every stage, for a recipe that is part of another.
        shared: whether other processes work on the same run, so that waiting for them needs no message.
    """

    folder: Path
    prefix: str = ""
    shared: bool = False

    def full_name(self, name: str) -> str:
        """Return the name of a stage within the whole run."""
        return f"{self.prefix}{name}"

    def path(self, name: str) -> Path:
        """Return the file of a stage's state."""
        return self._files(name).state

    def checkpoint(self, name: str) -> Path:
        """Return the file from which an interrupted fit continues."""
        return self._files(name).checkpoint

    def logs(self, name: str) -> Path:
        """Return the folder for the loggers of a stage."""
        return self._files(name).logs

    def is_made(self, name: str) -> bool:
        """Return True if the state is on disk."""
        return self.path(name).exists()

    def is_busy(self, name: str) -> bool:
        """Return True while a living process makes the stage."""
        return is_busy(self._lock(name))

    def memo(self, name: str, make: Callable[[], State]) -> State:
        """Return the state stored under a name; make and store it if missing, in one process only.

        All ranks make it, and the first rank saves it.
        """
        if (known := self._read(name)) is not None:
            return known
        if rank_zero_only.rank > 0:
            state = make()
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            with lock(self._lock(name), quiet=self.shared):
                if (known := self._read(name)) is not None:
                    return known
                state = make()
                state.save(self.path(name))
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()
        return state

    def _read(self, name: str) -> State | None:
        """Return the saved state; a damaged file is reported and computed again."""
        path = self.path(name)
        if not path.exists():
            return None
        try:
            return State.load(path)
        except ValueError as error:
            if rank_zero_only.rank == 0:
                print(f"sparsebench: {path} is damaged ({error}): this stage is computed again", flush=True)
                path.unlink(missing_ok=True)
            return None

    def drop_checkpoint(self, name: str) -> None:
        """Remove the checkpoint of a finished fit."""
        if rank_zero_only.rank == 0:
            self.checkpoint(name).unlink(missing_ok=True)

    def _lock(self, name: str) -> Path:
        return self._files(name).lock

    def _files(self, name: str) -> Stage:
        return RunFolder(self.folder).stage(self.full_name(name))


@contextlib.contextmanager
def lock(path: Path, *, quiet: bool = False) -> Iterator[None]:
    """Hold a lock file for the duration, waiting while another living process holds it.

    Args:
        path: the file; removed at the end.
        quiet: wait without a message.
    """
    began, told = time.monotonic(), False
    while (held := take(path)) is None:
        if not quiet and not told and time.monotonic() - began > _PATIENCE:
            print(f"sparsebench: waiting for {path.stem}, in use by {holder(path)}", file=sys.stderr, flush=True)
            told = True
        time.sleep(_POLL)
    try:
        yield
    finally:
        held.release()
