"""Disks as the system makes them: full, read-only, without locks. In a mount namespace, where one is allowed."""

import json
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest
from support import REPOSITORY, TINY, disk_of, environment_of

TRAIN = ["train", *TINY, "method=static", "monitor=light", "model.hidden=[64]", "trainer.save_steps=4",
         "trainer.save_seconds=0"]  # fmt: skip
COMMAND = " ".join([sys.executable, "-m", "sparsebench"])


@lru_cache(maxsize=1)
def may_mount() -> bool:
    """Return True if this user may mount a disk in a namespace of its own."""
    if not shutil.which("unshare"):
        return False
    probe = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs -o size=64k tmpfs /mnt"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


needs_mounts = pytest.mark.skipif(not may_mount(), reason="no mounts without privileges here")


def on_disk(tmp_path: Path, size: str, script: str) -> tuple[list[str], list[str]]:
    """Run a script with the disk of a size as working folder; return its output and the errors of sparsebench."""
    disk = tmp_path / "disk"
    disk.mkdir()
    train = " ".join(f"'{part}'" for part in TRAIN)
    whole = f'mount -t tmpfs -o size={size} tmpfs {disk}\ncd {disk}\ntrain() {{ {COMMAND} {train} "$@"; }}\n{script}'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", whole], env=environment_of(PYTHONPATH=str(REPOSITORY)), capture_output=True,
        text=True, timeout=300, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout.splitlines(), [
        line for line in done.stderr.splitlines() if line.startswith("sparsebench: error")
    ]


@needs_mounts
@pytest.mark.parametrize("size", ["16k", "60k", "120k"])
def test_a_full_disk_is_one_line_and_with_room_the_run_goes_on(tmp_path, cli, outputs, size):
    """At the first file, at a checkpoint, at the state; afterwards the result is what it would have been."""
    out, errors = on_disk(
        tmp_path, size,
        f"train; echo code $?; mount -o remount,size=64m .; train >log || cat log; cp -r outputs {tmp_path}/copy",
    )  # fmt: skip
    assert out[-1] == "code 2", out
    (error,) = errors
    assert "the disk is full: make room" in error
    assert cli(*TRAIN).code == 0
    results = [json.loads(next(place.rglob("result.json")).read_text()) for place in (tmp_path / "copy", outputs)]
    for key in ("weights_digest", "mask_digest", "test_accuracy", "steps"):
        assert results[0][key] == results[1][key]
    assert disk_of(tmp_path / "copy") == disk_of(outputs), "nothing half-written is left"


@needs_mounts
def test_a_disk_that_is_mounted_read_only_is_read_and_refused_in_one_line(tmp_path):
    script = "train >/dev/null; mount -o remount,ro .; train; echo code $?; train seed=1; echo code $?; "
    out, errors = on_disk(tmp_path, "64m", script + f"{COMMAND} status; {COMMAND} report --format csv")
    assert [line for line in out if line.startswith("code")] == ["code 0", "code 2"], "a finished run is only read"
    (error,) = errors
    assert "the disk is mounted read-only: choose another output_root" in error
    assert "1 runs: 1 done" in out
    assert any("static" in line and "digits" in line for line in out[-3:])


NO_LOCKS = """
#include <errno.h>
int flock(int handle, int kind) { errno = ENOLCK; return -1; }
"""


@pytest.fixture(scope="module")
def no_locks(tmp_path_factory):
    """The environment in which the C library refuses every lock, as some network disks do."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler")
    place = tmp_path_factory.mktemp("locks")
    (place / "no_locks.c").write_text(NO_LOCKS)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", place / "no_locks.so", place / "no_locks.c"], check=True)
    return environment_of(LD_PRELOAD=str(place / "no_locks.so"), PYTHONPATH=str(REPOSITORY))


def test_without_locks_two_launches_share_a_run_and_a_killed_one_continues(tmp_path, no_locks, cli, outputs):
    arguments = [*TRAIN, "trainer.max_epochs=12", "trainer.save_steps=4"]

    def launch():
        return subprocess.Popen(
            [sys.executable, "-m", "sparsebench", *arguments, "output_root=far"], cwd=tmp_path, env=no_locks, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    far = tmp_path / "far"
    first = launch()
    while not list(far.rglob("single.ckpt")):
        assert first.poll() is None, first.communicate()
    first.kill()
    first.communicate()
    assert list(far.rglob("run.lock")), "left behind, and no lock of anybody"
    again, other = launch(), launch()
    answers = [process.communicate(timeout=200) for process in (again, other)]
    assert (again.returncode, other.returncode) == (0, 0), answers
    assert all("has no locks" in err for _, err in answers)
    assert not list(far.rglob("*.lock*"))
    assert cli(*arguments).code == 0
    digests = {json.loads(next(place.rglob("result.json")).read_text())["weights_digest"] for place in (far, outputs)}
    assert len(digests) == 1
