"""Atomic writing of files: a reader, a kill or a power cut never sees a partial file."""

from __future__ import annotations

import contextlib
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

PARTIAL = ".partial"
"""Extension of files that are still being written; a kill may leave one behind, and nothing ever reads it."""


def write_atomically(path: Path, content: str | bytes, *, durable: bool = True) -> None:
    """Write text or bytes to a file that always holds either its old or its new content.

    Args:
        path: the file; its folder is created if needed.
        content: text, which is encoded as UTF-8, or bytes.
        durable: survive a power cut too. False does not wait for the disk, for files that may be lost.
    """
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_atomically(path, lambda partial: _write(partial, data), durable=durable)


def create_atomically(path: Path, content: str) -> None:
    """Write a file unless another process has created it in the meantime; the first complete file stays."""
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _write(partial, content.encode())
        with contextlib.suppress(FileExistsError):
            try:
                os.link(partial, path)
            except FileExistsError:
                raise
            except OSError:  # a disk without hard links
                os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def is_whole_archive(path: Path) -> bool:
    """Return True if a file of ``torch.save`` is complete: its end exists and all checksums match."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, ValueError, NotImplementedError, EOFError, zipfile.BadZipFile, zlib.error):
        return False


def replace_atomically(path: Path, write: Callable[[Path], object], *, durable: bool = True) -> None:
    """Write a file next to ``path`` with ``write``, then move it into place; errors keep the old file.

    Args:
        path: the file; its folder exists.
        write: function that writes to a given path, such as ``torch.save``.
        durable: as in ``write_atomically``.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    try:
        write(partial)
        publish(partial, path, durable=durable)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def publish(partial: Path, path: Path, *, durable: bool = True) -> None:
    """Move a complete file into place.

    The content reaches the disk before the name does. Otherwise, some file systems would show the new name with a
    length of 0 after a power cut.
    """
    if durable:
        _flush(partial)
    os.replace(partial, path)
    if durable:
        with contextlib.suppress(OSError):  # not every file system can flush folders
            _flush(path.parent)


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
