"""Compile the kernels for this machine once, keep them in the user's cache, load them."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("kernels.cpp")

_FLAGS = {
    "AVX512": (
        "-mavx2 -mfma -mavx512f -mavx512dq -mavx512bw -mavx512vl -mprefer-vector-width=512 "
        "-DVECTOR_BYTES=64 -DMAX_VECTORS=16"
    ),
    "AVX2": "-mavx2 -mfma -DVECTOR_BYTES=32 -DMAX_VECTORS=8",
    "DEFAULT": "-DVECTOR_BYTES=16 -DMAX_VECTORS=8",
}
_COMMON = "-std=c++17 -O3 -fPIC -shared"


def _flags(kind: str) -> str:
    """Return the compiler's arguments, with ``CXXFLAGS`` last so that they take precedence."""
    return f"{_COMMON} {_FLAGS[kind]} {os.environ.get('CXXFLAGS', '')}".strip()


class NoKernels(RuntimeError):
    """The kernels cannot be compiled or loaded here; the message says why, in one line."""


def capability() -> str:
    """Return which instructions the kernels use: ``AVX512``, ``AVX2`` or ``DEFAULT``.

    The answer is PyTorch's own, so that ``ATEN_CPU_CAPABILITY=avx2`` applies to these kernels too.
    """
    found = torch.backends.cpu.get_cpu_capability()
    if found.startswith(("AVX512", "AVX10")):
        return "AVX512"
    return found if found in _FLAGS else "DEFAULT"


def cache_folder() -> Path:
    """Return the folder of compiled kernels: ``SPARSEBENCH_KERNELS``, or one in the user's cache."""
    if chosen := os.environ.get("SPARSEBENCH_KERNELS"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparsebench" / "kernels"


def library_name(kind: str) -> str:
    """Return the file name of the kernels of one kind, which changes with the source and the flags."""
    text = SOURCE.read_bytes() + f"{_flags(kind)} {platform.machine()}".encode()
    return f"{kind.lower()}-{hashlib.sha256(text).hexdigest()[:16]}.so"


def build(kind: str | None = None, folder: Path | None = None) -> Path:
    """Compile the kernels unless they exist, and return the path of the library.

    Two processes may build at the same time: each compiles into a separate file and renames it, so that no process ever
    loads half a library or waits for a lock that a killed process has left behind.

    Args:
        kind: ``AVX512``, ``AVX2`` or ``DEFAULT``; by default the best of this processor.
        folder: target folder; by default ``cache_folder()``, or a temporary folder if that is not writable.

    Raises:
        NoKernels: there is no compiler, or it fails.
        ValueError: the kind is unknown.
    """
    kind = kind or capability()
    if kind not in _FLAGS:
        raise ValueError(f"kernels={kind!r} is unknown: choose one of {', '.join(_FLAGS)}")
    target = (folder or cache_folder()) / library_name(kind)
    if target.exists():
        return target
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if compiler is None:
        raise NoKernels("no C++ compiler was found: install g++ or clang++, or set CXX")
    target = _writable(target)
    with tempfile.TemporaryDirectory(dir=target.parent) as private:
        made = Path(private) / target.name
        command = [*compiler.split(), *_flags(kind).split(), str(SOURCE), "-o", str(made)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NoKernels(f"{compiler} does not run ({error})") from error
        if done.returncode:
            said = next((line for line in done.stderr.splitlines() if "error" in line), f"status {done.returncode}")
            raise NoKernels(f"{compiler} cannot compile the kernels ({said.strip()})")
        os.replace(made, target)
    return target


def _writable(target: Path) -> Path:
    """Return the path, or a path of the same name in a temporary folder if it is not writable."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent):
            return target
    except OSError:
        return Path(tempfile.mkdtemp(prefix="sparsebench-")) / target.name


@cache
def library() -> ctypes.CDLL:
    """Return the loaded kernels of this processor, compiled on first use.

    Raises:
        NoKernels: they cannot be compiled or loaded.
    """
    path = build()
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        path.unlink(missing_ok=True)  # built on another system, or damaged: build again
    try:
        return ctypes.CDLL(str(build()))
    except OSError as error:
        raise NoKernels(f"the compiled kernels do not load ({error})") from error


@cache
def available() -> bool:
    """Return True if the kernels can be used here; otherwise print the reason once, in one line."""
    try:
        library()
    except NoKernels as error:
        warnings.warn(f"using dense masked products instead of direct sparse kernels: {error}", stacklevel=3)
        return False
    return True
