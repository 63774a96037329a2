"""Console output of processes: a prefix before each line of parallel processes, and no Lightning banners."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

PREFIX = "SPARSEBENCH_PREFIX"
"""Environment variable that passes the prefix to the processes that a run starts."""

_NOISE = (
    ".*does not have many workers.*",
    ".*lr_scheduler.step.*before.*optimizer.step.*",  # a step that only rewires
    ".*srun.*",
    ".*smaller than the logging interval.*",
    ".*LeafSpec.*",
    ".*Total length of .* across ranks is zero.*",  # no validation images: dataset.val_share=0
    ".*recommended to use `self.log.*sync_dist.*",  # logged values of masks and cost are equal on all ranks
)


class Prefixed(io.TextIOBase):
    """Write only complete lines, each in one piece with its prefix, so that processes do not interleave.

    Args:
        stream: destination of the lines.
        prefix: text before each line.
    """

    def __init__(self, stream: TextIO, prefix: str) -> None:
        self.stream, self.prefix, self._rest = stream, prefix, ""

    def write(self, text: str) -> int:
        """Buffer an incomplete line."""
        *lines, self._rest = (self._rest + text).split("\n")
        if lines:
            self.stream.write("".join(f"{self.prefix}{line}\n" if line else "\n" for line in lines))
            self.stream.flush()
        return len(text)

    def flush(self) -> None:
        """Flush complete lines."""
        self.stream.flush()

    def isatty(self) -> bool:
        """Return False: progress bars cannot be drawn here."""
        return False

    def fileno(self) -> int:
        """Return the file descriptor of the stream."""
        return self.stream.fileno()


def speak_for(prefix: str) -> None:
    """Set the prefix of every line of this process; an empty prefix removes it."""
    streams: Any = sys
    for name in ("stdout", "stderr"):
        stream = getattr(streams, name)
        stream = stream.stream if isinstance(stream, Prefixed) else stream
        setattr(streams, name, Prefixed(stream, prefix) if prefix else stream)


def spoken_for() -> str:
    """Return the line prefix of this process."""
    return sys.stdout.prefix if isinstance(sys.stdout, Prefixed) else ""


@contextlib.contextmanager
def one_line_warnings() -> Iterator[None]:
    """Show each warning as one line, as errors are shown, without its place in the source."""
    before = warnings.formatwarning
    warnings.formatwarning = _one_line
    try:
        yield
    finally:
        warnings.formatwarning = before


def _one_line(message: Warning | str, *_: object, **__: object) -> str:
    return f"sparsebench: warning: {' '.join(str(message).split())}\n"


def quieten() -> None:
    """Silence Lightning's messages about itself."""
    import lightning.pytorch  # noqa: F401 (sets its own level when it is imported)

    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)  # reports that trainer.profiler asks for
    for text in _NOISE:
        warnings.filterwarnings("ignore", message=text)
