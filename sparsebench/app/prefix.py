"""Say which run speaks, where several speak at once: a prefix before each line that a process prints."""

from __future__ import annotations

import io
import sys
from typing import Any, TextIO

PREFIX = "SPARSEBENCH_PREFIX"
"""Carries the prefix into the processes that a run starts."""


class Prefixed(io.TextIOBase):
    """Write whole lines only, each in one piece and with its prefix, so that processes do not interrupt each other.

    Args:
        stream: where the lines go.
        prefix: what stands before each.
    """

    def __init__(self, stream: TextIO, prefix: str) -> None:
        self.stream, self.prefix, self._rest = stream, prefix, ""

    def write(self, text: str) -> int:
        """Keep what is no whole line yet."""
        *lines, self._rest = (self._rest + text).split("\n")
        if lines:
            self.stream.write("".join(f"{self.prefix}{line}\n" if line else "\n" for line in lines))
            self.stream.flush()
        return len(text)

    def flush(self) -> None:
        """Flush what is whole."""
        self.stream.flush()

    def isatty(self) -> bool:
        """Tell that no bar can be drawn here."""
        return False

    def fileno(self) -> int:
        """Return the file descriptor of the stream."""
        return self.stream.fileno()


def speak_for(prefix: str) -> None:
    """Put a prefix before every line from now on; an empty one takes it away."""
    streams: Any = sys
    for name in ("stdout", "stderr"):
        stream = getattr(streams, name)
        stream = stream.stream if isinstance(stream, Prefixed) else stream
        setattr(streams, name, Prefixed(stream, prefix) if prefix else stream)


def spoken_for() -> str:
    """Return the prefix of this process."""
    return sys.stdout.prefix if isinstance(sys.stdout, Prefixed) else ""
