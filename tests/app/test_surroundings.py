"""What surrounds a run: signals, clusters, disks, links, clocks, terminals. Each case is a public bug report."""

import contextlib
import errno
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import REPOSITORY, command, disk_of, environment_of

from sparsebench.app.errors import explain
from sparsebench.app.main import main
from sparsebench.app.process import placement, ranks
from sparsebench.runs import lock
from sparsebench.runs.activity import Busy
from sparsebench.runs.folder import RunFolder, runs_below
from sparsebench.runs.manifest import manifests_below, write_manifest
from sparsebench.runs.walk import walk

QUIET = ["trainer.max_epochs=1", "method=static", "monitor=light"]


def the_run(outputs: Path) -> Path:
    (done,) = outputs.rglob("DONE")
    return done.parent


# -- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_no_success_and_the_same_command_continues(tmp_path, tiny, cli, outputs, number):
    arguments = ["train", *tiny, "method=static", "trainer.max_epochs=60", "trainer.save_steps=1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sparsebench", *arguments], cwd=tmp_path, env=environment_of(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )  # fmt: skip
    end = time.monotonic() + 120
    while not list(outputs.rglob("single.ckpt")):
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    said = [line for line in err.splitlines() if line.startswith("sparsebench")]
    assert said == [f"sparsebench: interrupted by {number.name}; repeat the command to continue"]
    assert "Traceback" not in out + err
    (folder,) = (path.parent for path in outputs.rglob("config.yaml"))
    assert RunFolder(folder).state() == "interrupted"
    answer = cli(*arguments)
    assert answer.code == 0, answer.err
    assert json.loads((folder / "result.json").read_text())["steps"] == 60 * 8


# -- clusters ---------------------------------------------------------------------------------------------------------

SLURM = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "1",
         "SLURM_JOB_NAME": "x", "SLURM_LOCALID": "1"}  # fmt: skip


@pytest.mark.parametrize(
    "left",
    [
        SLURM,
        {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "1"},
        {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"},
        {"RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none", "LOCAL_RANK": "1", "GROUP_RANK": "0"},
    ],
)
def test_a_run_of_one_device_has_no_rank(cli, tiny, outputs, monkeypatch, left):
    from lightning.pytorch.utilities import rank_zero_only

    for name, value in left.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # as Lightning reads it when it is imported
    answer = cli("train", *tiny, *QUIET)
    assert answer.code == 0, answer.err
    assert {"DONE", "result.json", "metrics.csv", "final.pt", "single.pt"} <= set(disk_of(the_run(outputs)))
    assert {name: os.environ.get(name) for name in left} == left  # the launcher may still need them
    assert cli("plan", *tiny).code == 0


def test_a_task_of_srun_for_each_device_or_one_line(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    one, two = ({"strategy": "auto", "devices": number, "num_nodes": 1} for number in (1, 2))
    assert not ranks.started_by_slurm(one)
    assert ranks.started_by_slurm(two)
    with pytest.raises(ValueError, match=r"srun has started 2 tasks, but trainer.devices=4 on 1 node\(s\) needs 4"):
        ranks.started_by_slurm({**two, "devices": 4})


def test_a_rank_without_a_first_one_does_not_wait_for_ever(cli, tiny, monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sparsebench.app.process.execute._PATIENCE", 0.3)
    answer = cli("train", *tiny, "trainer.devices=2")
    assert answer.code == 2
    assert "no sign of srun's first task" in answer.err


def test_gpus_that_are_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(placement, "_TRACES", (str(tmp_path / "none"),))
    assert placement.visible_gpus() == []
    monkeypatch.setattr(placement, "_TRACES", (str(tmp_path),))
    assert placement.visible_gpus() == ["0"]


def test_a_system_that_does_not_tell_which_cores(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert placement.own_cores() == list(range(os.cpu_count() or 1))
    assert placement.places(workers=1)


# -- disks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_disk_without_locks(tmp_path, monkeypatch, capfd, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock, "_warned", False)
    monkeypatch.setattr(fcntl, "flock", refuse)
    run = RunFolder(tmp_path / "run")
    with run.hold() as held:
        assert held.first
        assert run.is_busy()
        assert "process" in run.holder()
        with pytest.raises(Busy), run.hold(wait=False):
            pass
    assert not run.is_busy()
    assert disk_of(tmp_path) == []
    assert capfd.readouterr().err.count("has no locks") == 1
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / "run" / "run.lock").write_text(f"process {dead.pid} on {socket.gethostname()}\n")
    assert not run.is_busy()
    with run.hold(wait=False) as held:  # its file is no lock
        assert held.first


def test_training_on_a_disk_without_locks(cli, tiny, outputs, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock, "_warned", False)
    monkeypatch.setattr(fcntl, "flock", refuse)
    answer = cli("train", *tiny, *QUIET)
    assert answer.code == 0, answer.err
    assert "the disk of" in answer.err
    assert not [name for name in disk_of(outputs) if "lock" in name]


def test_looking_writes_nothing(tmp_path, monkeypatch):
    run = RunFolder(tmp_path)
    run.write_config({"seed": 0})
    (tmp_path / "run.lock").write_text("")
    opened = os.open

    def read_only(path, flags, *more):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return opened(path, flags, *more)

    monkeypatch.setattr(os, "open", read_only)
    assert run.state() == "waiting"
    (tmp_path / "running.json").write_text(json.dumps({"pid": 1, "host": "elsewhere", "updated": 1.0, "step": 1}))
    before = disk_of(tmp_path), tmp_path.stat().st_mtime_ns
    assert run.state() == "running"
    assert (disk_of(tmp_path), tmp_path.stat().st_mtime_ns) == before


def test_clocks_of_two_machines(tmp_path, monkeypatch):
    run = RunFolder(tmp_path)
    sign = {"pid": 1, "host": "elsewhere", "step": 1}
    for ahead in (-5000.0, 5000.0):  # of the writer, then of this machine
        (tmp_path / "running.json").write_text(json.dumps({**sign, "updated": time.time() + ahead}))
        assert run.is_busy()
        with monkeypatch.context() as patch:
            now = time.time
            patch.setattr(time, "time", lambda now=now, ahead=ahead: now() + ahead)
            assert run.is_busy()
    os.utime(tmp_path / "running.json", (time.time() - 1000,) * 2)
    (tmp_path / "running.json").touch()
    os.utime(tmp_path / "running.json", (time.time() - 1000,) * 2)
    assert not run.is_busy()
    assert disk_of(tmp_path) == ["running.json"]


@pytest.mark.parametrize("make", ["file", "long"])
def test_refusals_of_the_system_are_one_line(cli, tiny, tmp_path, make):
    (tmp_path / "file").write_text("")
    arguments = {"file": ["output_root=file/x"], "long": [f"name={'n' * 300}"]}[make]
    answer = cli("train", *tiny, *arguments)
    assert answer.code == 2
    lines = answer.err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("sparsebench: error:")
    assert len(lines[0]) < 500


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.ENAMETOOLONG])
def test_a_disk_that_refuses_a_write(cli, tiny, monkeypatch, number):
    def refuse(path, data):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr("sparsebench.runs.atomic._write", refuse)
    answer = cli("train", *tiny, *QUIET)
    assert answer.code == 2
    (line,) = answer.err.strip().splitlines()
    assert re.match(r"sparsebench: error: .*: .+; .+", line), line


def test_what_a_system_error_says():
    assert explain(OSError(errno.ENOSPC, "No space left on device", "a/b")) == (
        "a/b: no space left on device; the disk is full: make room and repeat the command to continue"
    )
    assert explain(FileNotFoundError("give a file")) == "give a file"
    assert explain(ValueError("x")) == "x"


def test_a_disk_that_fills_up_while_training(cli, tiny, tmp_path, outputs):
    """No file may grow beyond 20 kB: checkpoints and states do; with room again, the same command goes on."""
    arguments = ["train", *tiny, "method=static", "model.hidden=[64]", "trainer.save_steps=4"]
    limited = f"ulimit -f 20; exec {sys.executable} -m sparsebench {' '.join(map(repr, arguments))}"
    done = subprocess.run(["bash", "-c", limited], cwd=tmp_path, env=environment_of(), capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    said = [line for line in done.stderr.splitlines() if not re.search(r"Warning|^ ", line)]
    assert len(said) == 1, done.stderr
    assert said[0].startswith("sparsebench: error: ")
    assert not list(outputs.rglob("DONE"))
    assert not [path for path in outputs.rglob("*.partial") if path.name.endswith(f"{os.getpid()}.partial")]
    answer = cli(*arguments)
    assert answer.code == 0, answer.err
    assert (the_run(outputs) / "single.pt").exists()


def test_a_folder_that_may_not_be_written(cli, tiny, tmp_path, monkeypatch):
    def refuse(self, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    answer = cli("train", *tiny, *QUIET)
    assert (answer.code, len(answer.err.strip().splitlines())) == (2, 1)
    assert "permission denied" in answer.err


# -- links ------------------------------------------------------------------------------------------------------------


def test_links_are_followed_and_loops_end(cli, tiny, tmp_path, outputs):
    cli("train", *tiny, *QUIET, "output_root=scratch")
    write_manifest(tmp_path / "scratch" / "runs", {tmp_path / "scratch" / "runs" / "b": ["seed=1"]})
    outputs.mkdir()
    (outputs / "e").symlink_to(tmp_path / "scratch")
    (tmp_path / "scratch" / "runs" / "above").symlink_to(outputs)
    (tmp_path / "scratch" / "itself").symlink_to(tmp_path / "scratch" / "itself")
    assert len(list(runs_below(outputs))) == 1
    assert len(list(manifests_below(outputs))) == 1
    assert len({place for place, *_ in walk(outputs)}) == len(list(walk(outputs)))
    assert "1 done" in cli("status", "outputs").out
    assert "static" in cli("report", "outputs").out
    from sparsebench.app.cli.watch import state

    assert any(name.endswith("DONE") for name in state(outputs))


# -- names, terminals -------------------------------------------------------------------------------------------------


def test_letters_of_any_language(cli, tiny, outputs):
    answer = cli("train", *tiny, *QUIET, "name=größe")
    assert answer.code == 0, answer.err
    assert (outputs / "größe").is_dir()


def test_a_terminal_of_few_letters(tmp_path, tiny, cli):
    for seed in ("0", "1"):
        cli("train", *tiny, *QUIET, f"seed={seed}", "name=größe")
    plain = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    for verb in (["report"], ["status"], ["list", "method"], ["list", "dataset"]):
        done = command(*verb, cwd=tmp_path, **plain)
        assert (done.returncode, done.stderr) == (0, ""), verb


def test_every_file_is_read_and_written_as_utf_8():
    calls = re.compile(r"\.(?:read_text|write_text)\(|(?<![\w.])open\((?!options|\))|\.open\(")
    binary = re.compile(r"""encoding=|["'][rwa]b["']|os\.open\(|Image\.open\(|webbrowser""")
    found = []
    for folder in ("sparsebench", "hydra_plugins", "scripts"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                if calls.search(line) and not binary.search(line) and "def " not in line and "ZipFile" not in line:
                    found.append(f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()}")
    assert found == []


def test_a_long_folder_for_temporary_files(tmp_path):
    long = tmp_path / ("t" * 100)
    long.mkdir()
    code = """
import multiprocessing as mp
from sparsebench.app.process.sockets import shorten_socket_folder
from multiprocessing.connection import Listener
shorten_socket_folder()
import tempfile
print(len(mp.util.get_temp_dir()) < 60, tempfile.gettempdir() == __import__("os").environ["TMPDIR"])
Listener(family="AF_UNIX").close()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment_of(TMPDIR=str(long)), capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("True True\n", "")


def test_a_finished_run_says_that_nothing_is_logged_now(cli, tiny, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert cli("train", *tiny, *QUIET).code == 0
    answer = cli("train", *tiny, *QUIET, "logger=wandb")
    assert answer.code == 0
    assert "it was trained without logger=wandb" in answer.out


def test_main_leaves_signals_as_they_were():
    before = signal.getsignal(signal.SIGTERM)
    with contextlib.suppress(SystemExit):
        main(["list", "method"])
    assert signal.getsignal(signal.SIGTERM) is before
