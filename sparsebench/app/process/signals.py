"""SIGTERM and SIGHUP end a run as Ctrl-C does, and the exit code identifies the signal."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Generator
from typing import Any

_HEEDED = ("SIGTERM", "SIGHUP")  # SIGHUP does not exist everywhere
_received: list[signal.Signals] = []


@contextlib.contextmanager
def heeding_signals() -> Generator[None]:
    """Turn a request to end into KeyboardInterrupt, so that all processes started by this one end with it.

    Lightning alone would end training and exit with 0, as after success. Signals that are ignored on purpose, as under
    ``nohup``, stay ignored.
    """
    _received.clear()
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        known = [signal.Signals[name] for name in _HEEDED if hasattr(signal, name)]
        before = {number: signal.getsignal(number) for number in known if signal.getsignal(number) == signal.SIG_DFL}
        for number in before:
            signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ending_signal() -> signal.Signals:
    """Return the signal that ended this process: SIGINT (Ctrl-C) unless another one arrived."""
    return _received[0] if _received else signal.SIGINT


def interrupted_code() -> int:
    """Return the exit code of a process ended by a signal, as in shells: 130, 143, 129."""
    return 128 + ending_signal()


def _interrupt(number: int, frame: Any) -> None:
    if not _received:  # one is enough: a second one would interrupt the clean-up
        _received.append(signal.Signals(number))
        raise KeyboardInterrupt
