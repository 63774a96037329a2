"""Stages are made once: saved, loaded, shared out among processes, and safe against a kill."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support import environment_of
from tiny_run import states, tiny_run

from sparsebench.fits import State
from sparsebench.fits.stages import holder, is_busy, lock
from sparsebench.methods import Static
from sparsebench.recipes.pruning import dense_masks, rewind
from sparsebench.sparse import digest

PROGRAM = """
import sys, logging
sys.path.insert(0, {tests!r})
logging.disable(logging.WARNING)
import torch
torch.set_num_threads(1)
from pathlib import Path
from tiny_run import tiny_run, trainer
from sparsebench.recipes import swamp
import lightning as L, time, os
class Slow(L.Callback):
    def on_train_start(self, trainer, module):
        print("training", os.path.basename(self.label), flush=True)
    def on_train_batch_end(self, trainer, *_):
        time.sleep(float(sys.argv[2]))
    label = ""
run = tiny_run(Path(sys.argv[1]), progress=lambda: [Slow()], save_steps=1)
swamp(run, particles=2, share=0.5, rewind_to=0.25)
"""


def start(folder: Path, pause: float = 0.0) -> subprocess.Popen:
    code = PROGRAM.format(tests=str(Path(__file__).parents[1]))
    command = [sys.executable, "-c", code, str(folder), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment_of())


def trained(process: subprocess.Popen) -> list[str]:
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return [line.removeprefix("training ").removesuffix(": ").strip() for line in out.splitlines()]


def digests(folder: Path) -> dict[str, tuple[str, str]]:
    return {name: (digest(state.weights), digest(state.masks)) for name, state in states(folder).items()}


STAGES = ["ticket", *(f"cycle{c}-particle{n}" for c in range(3) for n in range(2))]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the saved states of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    assert [name.rstrip(":") for name in trained(start(folder))] == STAGES
    return digests(folder)


@pytest.mark.slow
def test_a_killed_run_goes_on_and_repeats_no_finished_stage(tmp_path, whole):
    process = start(tmp_path, pause=0.1)
    checkpoint, limit = tmp_path / "cycle1-particle0.ckpt", time.monotonic() + 100
    while not checkpoint.exists() and time.monotonic() < limit:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    finished = {path.stem for path in tmp_path.glob("*.pt")}
    assert {"ticket", "cycle0-particle0", "cycle0-particle1", "cycle0-measured"} == finished
    before = {name: (tmp_path / f"{name}.pt").stat().st_mtime_ns for name in finished}
    again = [name.rstrip(":") for name in trained(start(tmp_path))]
    assert again == [name for name in STAGES if name not in finished]
    assert {name: (tmp_path / f"{name}.pt").stat().st_mtime_ns for name in finished} == before
    assert digests(tmp_path) == whole
    assert not list(tmp_path.glob("*.lock")) + list(tmp_path.glob("*.ckpt")) + list(tmp_path.glob("*.partial"))


@pytest.mark.slow
def test_two_processes_share_the_stages_and_reach_the_same_result(tmp_path, whole):
    one, two = start(tmp_path, pause=0.05), start(tmp_path, pause=0.05)
    first, second = ([name.rstrip(":") for name in trained(process)] for process in (one, two))
    assert sorted(first + second) == sorted(STAGES)  # nothing twice, nothing forgotten
    assert first
    assert second
    assert digests(tmp_path) == whole


def test_a_stage_is_made_once(tmp_path):
    run, made = tiny_run(tmp_path), []

    def make():
        made.append(1)
        return State({"w": torch.ones(2)}, {}, {"seconds": 1.0})

    one, two = run.memo("stage", make), run.memo("stage", make)
    assert made == [1]
    assert digest(one.weights) == digest(two.weights)
    assert one.facts == two.facts
    assert not list(tmp_path.glob("stage.lock"))


def test_a_failing_stage_leaves_nothing(tmp_path):
    run = tiny_run(tmp_path)
    with pytest.raises(RuntimeError, match="broken"):
        run.memo("stage", lambda: (_ for _ in ()).throw(RuntimeError("broken")))
    assert not list(tmp_path.iterdir())


def test_an_unreadable_state_is_made_anew_with_a_word(tmp_path, capsys):
    whole = tiny_run(tmp_path / "whole", method=Static(density=0.3)).fit("stage")
    (tmp_path / "stage.pt").write_bytes(b"nonsense")
    again = tiny_run(tmp_path, method=Static(density=0.3)).fit("stage")
    assert "stage.pt is damaged" in capsys.readouterr().out
    assert all(torch.equal(value, whole.weights[name]) for name, value in again.weights.items())


def test_a_lock_excludes_a_living_process_and_forgets_a_dead_one(tmp_path):
    path = tmp_path / "stage.lock"
    code = (
        "import time; from pathlib import Path; from sparsebench.fits.stages import lock\n"
        f"with lock(Path({str(path)!r})):\n    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        assert is_busy(path)
        assert holder(path).startswith(f"process {process.pid} on ")
        process.kill()
    assert path.exists()  # left behind, but nobody's
    assert not is_busy(path)
    with lock(path):
        assert is_busy(path)
        assert holder(path).startswith(f"process {os.getpid()} on ")
    assert not path.exists()


def test_masks_of_the_start_are_kept_by_a_fit(tmp_path):
    run = tiny_run(tmp_path)
    masks = {
        name: mask.flatten().index_fill(0, torch.arange(9), False).reshape(mask.shape)
        for name, mask in dense_masks(run).items()
    }
    state = run.fit("stage", rewind(run.initial(), masks))
    assert digest(state.masks) == digest(masks)
    assert all(not state.weights[name][~mask].any() for name, mask in masks.items())


def test_an_averaging_fit_goes_on_exactly(tmp_path):
    import lightning as L

    from sparsebench.engine.callbacks.averaging import Averaging

    class Stop(L.Callback):
        def on_train_batch_start(self, trainer, module, batch, index):
            if trainer.global_step == 9:
                raise KeyboardInterrupt

    def run(folder, **changes):
        made = tiny_run(folder, save_steps=1, **changes)
        average = Averaging(start=0.5, every=1, rate=0.03)
        return made.fit("stage", rewind(made.initial(), dense_masks(made)), average=average)

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(tmp_path / "cut", progress=lambda: [Stop()])
    assert (tmp_path / "cut" / "stage.ckpt").exists()
    assert digest(run(tmp_path / "cut").weights) == digest(run(tmp_path / "whole").weights)
