"""One object knows what a run leaves on disk: names, states, failures, and files that survive a kill."""

import ast
import json
import os
import re
import socket
import time

import pytest
from support import REPOSITORY

from sparsebench.runs import files
from sparsebench.runs.activity import Busy
from sparsebench.runs.atomic import replace_atomically, write_atomically
from sparsebench.runs.folder import STATES, RunFolder, runs_below
from sparsebench.runs.manifest import manifests_below, write_manifest
from sparsebench.runs.mappings import differences, dotted
from sparsebench.runs.messages import did_you_mean

SPELLED_IN = {"runs/files.py", "runs/manifest.py"}
NAMES = [getattr(files, name) for name in vars(files) if name.isupper() and name != "PARTIAL"]
NAMES = {name for name in NAMES if isinstance(name, str)}
DOTTED = {name for name in NAMES if "." in name} | {"grid-", ".ckpt"}
WORDS = NAMES - DOTTED
PATHS = ("joinpath", "with_name", "glob", "rglob")


def strings(tree):
    """Yield the strings of a module that are no docstrings, each with the node around it."""
    docstrings = {
        id(statement.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        for statement in node.body
        if isinstance(statement, ast.Expr)
    }
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Constant) and isinstance(child.value, str) and id(child) not in docstrings:
                yield child, node


def is_path(around):
    """Return True where a string is part of a path, or is compared with the name of one."""
    if isinstance(around, ast.Call):
        return getattr(around.func, "attr", "") in PATHS
    if isinstance(around, ast.Compare):
        return getattr(around.left, "attr", "") == "name"
    return isinstance(around, ast.BinOp) and isinstance(around.op, ast.Div)


def spelled(source):
    """Return the file names of a run that a module spells."""
    found = []
    for child, around in strings(ast.parse(source)):
        named = any(re.search(rf"(?<![\w.]){re.escape(name)}", child.value) for name in DOTTED)
        if named or (is_path(around) and WORDS.intersection(child.value.split("/"))):
            found.append((child.lineno, child.value))
    return found


def test_no_other_module_spells_a_file_name_of_a_run():
    assert len(DOTTED) > 10
    assert spelled('path = folder / "metrics.csv"') == [(1, "metrics.csv")]
    for bad in ('folder.glob("*/DONE")', 'folder / "stages"', 'f"{x}/a/result.json"', 'path.parent.name == "stages"'):
        assert len(spelled(bad)) == 1, bad
    assert spelled('"""metrics.csv"""\nstop("stop"); kind == "wandb"') == []
    modules = [*(REPOSITORY / "sparsebench").rglob("*.py"), *(REPOSITORY / "hydra_plugins").rglob("*.py")]
    found = {path.relative_to(REPOSITORY).as_posix(): names for path in modules if (names := spelled(path.read_text()))}
    assert {path.removeprefix("sparsebench/") for path in found} == SPELLED_IN, found


def test_states_of_a_run(tmp_path):
    run = RunFolder(tmp_path / "a--01234567")
    assert run.state() == "waiting"
    run.write_config({"seed": 0, "method": {"density": 0.1}})
    assert run.config() == {"seed": 0, "method": {"density": 0.1}}
    assert run.state() == "waiting"
    assert not run.has_trained()
    with run.hold():
        assert run.state() == "running"
        run.write_heartbeat()
        assert not run.has_trained()
        run.write_heartbeat(step=3, steps=10)
        with pytest.raises(Busy, match="is in use by process"), run.hold(wait=False):
            pass
    assert run.state() == "interrupted"
    run.fail("ValueError: too hot\nin many lines")
    run.end_heartbeat()
    assert (run.state(), run.failure()) == ("failed", "ValueError: too hot")
    assert not run.failed_before_training()
    run.reopen()
    run.stop("Stopped: hopeless")
    assert (run.state(), run.stopped(), run.failure()) == ("stopped", "Stopped: hopeless", "")
    run.reopen()
    run.stage("single").checkpoint.write_bytes(b"x")
    assert run.state() == "interrupted"
    run.finish({"test_accuracy": 0.5})
    assert (run.state(), run.result()) == ("done", {"test_accuracy": 0.5})
    assert set(STATES) >= {"waiting", "running", "interrupted", "failed", "stopped", "done"}


def test_a_run_that_fails_while_it_is_built_says_so(tmp_path):
    run = RunFolder(tmp_path)
    run.write_heartbeat()
    run.fail("ValueError: no such width")
    assert run.failure() == "ValueError: no such width"
    assert run.failed_before_training()
    (tmp_path / "failed.txt").write_text("")
    assert run.failure() == "no reason was recorded"


def test_clearing_keeps_the_configuration_and_removing_keeps_foreign_files(tmp_path):
    run = RunFolder(tmp_path / "a--01234567")
    run.write_config({"seed": 0})
    run.finish({})
    write_atomically(run.metrics, "step\n")
    write_atomically(RunFolder(run.stage("cycle 1").logs).metrics, "step\n")
    run.stage("cycle 1").state.write_bytes(b"")
    run.clear()
    assert [path.name for path in run.path.rglob("*") if path.is_file()] == ["config.yaml"]
    assert run.remove()
    assert not run.path.exists()

    mine = RunFolder(tmp_path / "mine")
    mine.write_config({"seed": 0})
    (mine.path / "weights.pt").write_bytes(b"of a user who named this folder")
    assert not mine.remove()
    assert [path.name for path in mine.path.iterdir()] == ["weights.pt"]


@pytest.mark.parametrize("text", ["", "[1, 2", "null", "[]", "\x00\x01", '{"pid": {}, "updated": "soon", "host": "x"}'])
def test_damaged_files_are_named_or_passed_over(tmp_path, text):
    run = RunFolder(tmp_path)
    for name in ("config.yaml", "result.json", "running.json", "metrics.csv"):
        (tmp_path / name).write_text(text)
    assert run.state() == "interrupted"
    assert set(run.heartbeat()) <= {"host"}
    assert run.curve() == []
    if not text.startswith("{"):
        with pytest.raises(ValueError, match=r"config\.yaml (cannot be read|is not a configuration)"):
            run.config()
        with pytest.raises(ValueError, match=r"result\.json (cannot be read|is not a result)"):
            run.result()


def test_writing_leaves_the_old_file_or_the_new_one(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "file.txt"
    synced, sync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(os.fstat(handle).st_size), sync(handle))[1])
    write_atomically(path, "old")
    assert synced[0] == 3, "the content reaches the disk before the name does"
    write_atomically(path, b"not waited for", durable=False)
    assert len(synced) == 2
    assert path.read_bytes() == b"not waited for"

    def breaks(partial):
        partial.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_atomically(path, breaks)
    assert path.read_bytes() == b"not waited for"
    assert [found.name for found in path.parent.iterdir()] == ["file.txt"]


def test_runs_below_leaves_out_what_belongs_to_a_run(tmp_path):
    for name in ("b", "a", "b/stages/cycle1", "b/wandb/run/files", "b/inner", ".hidden"):
        RunFolder(tmp_path / name).write_config({})
    assert [run.path.relative_to(tmp_path).as_posix() for run in runs_below(tmp_path)] == ["a", "b", "b/inner"]


def test_manifests(tmp_path):
    path = write_manifest(tmp_path / "runs", {tmp_path / "runs" / "a": ["seed=0"]})
    (tmp_path / "runs" / "grid-00000000.json").write_text("{damaged")
    (found,) = manifests_below(tmp_path)
    assert (found.path, found.folders) == (path, {tmp_path / "runs" / "a": ["seed=0"]})
    assert (found.is_alive(), found.host) == (True, socket.gethostname())
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "host": "elsewhere"}))
    assert next(manifests_below(tmp_path)).is_alive() is None


def test_a_heartbeat_of_another_machine_counts_while_it_is_fresh(tmp_path):
    run = RunFolder(tmp_path)
    beat = {"pid": 1, "host": "elsewhere", "updated": time.time(), "step": 1}
    (tmp_path / "running.json").write_text(json.dumps(beat))
    assert run.state() == "running"
    os.utime(tmp_path / "running.json", (time.time() - 1000,) * 2)  # the disk's clock counts, not that of the writer
    assert run.state() == "interrupted"


def test_mappings():
    nested = {"a": {"b": 1, "c": {}}, "d": [1]}
    assert dotted(nested) == {"a.b": 1, "a.c": {}, "d": [1]}
    assert list(dotted(nested, groups=True)) == ["a", "a.b", "a.c", "d"]
    assert differences(nested, {"a": {"b": 2}}) == {"a.b": (1, 2), "a.c": ({}, "-"), "d": ([1], "-")}


def test_did_you_mean():
    assert did_you_mean("riggl", ["set", "rigl"]) == " (did you mean 'rigl'?)"
    assert did_you_mean("L1", ["l1", "rows"]) == " (did you mean 'l1'?)"
    assert did_you_mean("resnet05", ["resnet50", "resnet20"], at_most=2) == " (did you mean 'resnet50' or 'resnet20'?)"
    assert did_you_mean("xyz", ["rigl"]) == ""
