"""Whatever has happened to the files of runs: every verb answers, nothing false is told, and nothing else is lost."""

import json
import os
import random
import shutil
import sys
from pathlib import Path

import pytest
from support import TINY

from sparsebench.app.main import main

SLOW = bool(os.environ.get("SPARSEBENCH_SLOW"))
FOLDERS, TRAINED = (1000, 200) if SLOW else (36, 10)
ARGUMENTS = ["train", *TINY, "method=static", "monitor=light"]
NUMBERS = ("weights_digest", "mask_digest", "test_accuracy", "val_accuracy", "test_loss", "steps")
EXTRA = ("failed.txt", "stopped.txt", "running.json", "run.lock", "single.lock", "attempt.txt", "single.ckpt", "stop")


def call(*arguments):
    try:
        main(list(arguments))
    except SystemExit as stopped:
        return stopped.code
    return 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two finished runs, and one that a full disk has interrupted in mid-epoch."""
    place = tmp_path_factory.mktemp("whole")
    before, sys.argv = Path.cwd(), ["sparsebench"]
    os.chdir(place)
    try:
        assert call(*ARGUMENTS) == 0
        assert call(*ARGUMENTS, "seed=1") == 0
        _interrupt()
    finally:
        os.chdir(before)
    return place


def _interrupt():
    """Leave a checkpoint of the first epoch, as a kill would."""
    from sparsebench.engine.callbacks.heartbeat import Heartbeat

    def end(self, trainer, module):
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Heartbeat, "on_train_epoch_start", end, raising=False)
        assert call(*ARGUMENTS, "seed=2", "trainer.save_steps=4", "trainer.save_seconds=0") == 130


def damage(folder: Path, chance: random.Random) -> list[str]:
    """Damage up to three files of a run; say what was done."""
    done = []
    for _ in range(chance.choice((1, 1, 2, 3))):
        present = sorted(path.name for path in folder.iterdir() if path.is_file())
        name = chance.choice([*present, chance.choice(EXTRA)])
        path = folder / name
        data = path.read_bytes() if path.is_file() else b'{"pid": 1, "host": "x", "updated": 1}'
        how = chance.choice(("empty", "cut", "noise", "gone", "folder", "zeros"))
        if path.is_dir():
            continue
        path.unlink(missing_ok=True)
        if how == "folder":
            if name in ("run.lock", "single.lock"):
                continue
            path.mkdir()
        elif how != "gone":
            cut = data[: chance.randrange(len(data) + 1)]
            path.write_bytes({"empty": b"", "cut": cut, "noise": chance.randbytes(64), "zeros": bytes(len(data))}[how])
        done.append(f"{name} {how}")
    return done


def place_of(whole: Path, tmp_path: Path, seed: int) -> tuple[Path, list[str], dict]:
    shutil.copytree(whole / "outputs", tmp_path / "outputs")
    folders = sorted(path.parent for path in (tmp_path / "outputs").rglob("config.yaml"))
    chance = random.Random(seed)
    victim = chance.choice(folders)
    kept = {path: path.read_bytes() for f in folders if f != victim for path in f.rglob("*") if path.is_file()}
    return victim, damage(victim, chance), kept


@pytest.mark.parametrize("verb", ["status", "report", "json"])
def test_looking_at_damaged_folders(whole, tmp_path, monkeypatch, capsys, verb):
    for seed in range(FOLDERS):
        place = tmp_path / str(seed)
        place.mkdir()
        victim, done, kept = place_of(whole, place, seed)
        monkeypatch.chdir(place)
        before = sorted(path.relative_to(place).as_posix() for path in place.rglob("*"))
        arguments = {"status": ["status"], "report": ["report"], "json": ["report", "--format", "json"]}[verb]
        try:
            code = call(*arguments)
        except BaseException as error:
            raise AssertionError(f"seed {seed}, {victim.name}, {done}: {type(error).__name__}: {error}") from error
        seen = capsys.readouterr()
        assert code == 0, (seed, done, seen.err)
        assert "Traceback" not in seen.err
        assert sorted(path.relative_to(place).as_posix() for path in place.rglob("*")) == before
        assert all(path.read_bytes() == data for path, data in kept.items())
        shutil.rmtree(place)


@pytest.mark.parametrize("seed", range(TRAINED))
def test_training_again_in_a_damaged_folder(whole, tmp_path, monkeypatch, capsys, seed):
    """The run is what it was, or is refused by a line that names the file; the others stay as they are."""
    expected = {path.parent.name: json.loads(path.read_text()) for path in (whole / "outputs").rglob("result.json")}
    victim, done, kept = place_of(whole, tmp_path, 5000 + seed)
    monkeypatch.chdir(tmp_path)
    number = sorted(path.name for path in victim.parent.iterdir() if path.is_dir()).index(victim.name)
    try:
        code = call(*ARGUMENTS, f"seed={number}")
    except BaseException as error:
        raise AssertionError(f"seed {seed}, {victim.name}, {done}: {type(error).__name__}: {error}") from error
    seen = capsys.readouterr()
    assert code in (0, 2), (done, code, seen.err)
    assert "Traceback" not in seen.err, (done, seen.err)
    assert all(path.read_bytes() == data for path, data in kept.items())
    if code == 2:
        assert str(victim.name) in seen.err, (done, seen.err)
        return
    result = json.loads((victim / "result.json").read_text())
    if victim.name in expected:
        assert {key: result[key] for key in NUMBERS} == {key: expected[victim.name][key] for key in NUMBERS}, done
    assert (victim / "DONE").exists()
