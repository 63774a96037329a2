"""The smallest inputs of public bug reports that touch a whole command: files cut short, odd places, odd values."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from support import TINY, command

from sparsebench.app.config.compose import compose_config
from sparsebench.app.main import main
from sparsebench.app.process import ranks

TRAIN = ["train", *TINY, "method=static", "monitor=light", "trainer.save_steps=4", "trainer.save_seconds=0"]
NUMBERS = ("weights_digest", "mask_digest", "test_accuracy", "val_accuracy", "test_loss", "steps")
PLAIN = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}


def one_line(answer, *words):
    assert answer.code == 2, answer.out + answer.err
    (line,) = answer.err.strip().splitlines()
    assert line.startswith("sparsebench: error: "), line
    assert all(word in line for word in words), line


# -- files of length 0, and files cut in the middle -------------------------------------------------------------------


def call(place, *arguments):
    before, sys.argv = Path.cwd(), ["sparsebench"]
    os.chdir(place)
    try:
        main(list(arguments))
    except SystemExit as stopped:
        return stopped.code
    finally:
        os.chdir(before)
    return 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run."""
    place = tmp_path_factory.mktemp("whole")
    assert call(place, *TRAIN) == 0
    return place


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """The same run, ended in its second epoch."""
    from sparsebench.engine.callbacks.heartbeat import Heartbeat

    def end(self, trainer, module):
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt

    place = tmp_path_factory.mktemp("broken")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Heartbeat, "on_train_epoch_start", end, raising=False)
        assert call(place, *TRAIN) == 130
    return place


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


def numbers(place):
    (path,) = place.rglob("result.json")
    return {key: json.loads(path.read_text())[key] for key in NUMBERS}


@pytest.mark.parametrize("share", [0, 0.5])
@pytest.mark.parametrize(
    ("name", "said"),
    [("single.ckpt", "single.ckpt is damaged, as after a power cut"), ("metrics.csv", ""),
     ("config.yaml", "config.yaml is damaged, as after a power cut")],
)  # fmt: skip
def test_a_file_that_a_power_cut_has_left_short_is_made_anew(whole, broken, tmp_path, cli, name, said, share):
    shutil.copytree(broken / "outputs", tmp_path / "outputs")
    (path,) = (tmp_path / "outputs").rglob(name)
    cut(path, share)
    answer = cli(*TRAIN)
    assert answer.code == 0, answer.err
    assert share or said in answer.out  # half of a configuration may be one, of another run
    assert numbers(tmp_path) == numbers(whole)


@pytest.mark.parametrize("share", [0, 0.5])
def test_a_state_that_a_power_cut_has_left_short_is_made_anew(whole, tmp_path, cli, share):
    shutil.copytree(whole / "outputs", tmp_path / "outputs")
    (state,) = (tmp_path / "outputs").rglob("single.pt")
    cut(state, share)
    for name in ("DONE", "result.json", "final.pt", "masks.pt"):
        (state.parent / name).unlink()
    answer = cli(*TRAIN)
    assert answer.code == 0, answer.err
    assert "single.pt is damaged" in answer.out
    assert numbers(tmp_path) == numbers(whole)


@pytest.mark.parametrize("share", [0, 0.5])
@pytest.mark.parametrize("name", ["final.pt", "masks.pt", "result.json", "config.yaml"])
def test_a_finished_run_names_the_file_that_is_cut_short(whole, tmp_path, cli, name, share):
    shutil.copytree(whole / "outputs", tmp_path / "outputs")
    (path,) = (tmp_path / "outputs").rglob(name)
    cut(path, share)
    run = str(path.parent.relative_to(tmp_path))
    if name != "config.yaml" or not share:
        one_line(cli("evaluate", run), name)
        one_line(cli("export", run, "--plain"), name)
    if name == "final.pt":
        one_line(cli("export", run), name)
        one_line(cli("train", *TINY, "seed=1", f"start_from={run}"), name)


# -- clusters ---------------------------------------------------------------------------------------------------------


def test_ranks_of_somebody_else_do_not_reach_the_processes_of_a_run(monkeypatch):
    for name in (*ranks.TOLD, "SLURM_JOB_ID", "SLURM_JOB_NAME"):
        monkeypatch.setenv(name, "3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    kept = ranks.environment_without_ranks()
    assert not [name for name in kept if name in ranks.TOLD or name.startswith("SLURM_")]
    assert kept["CUDA_VISIBLE_DEVICES"] == "0"


# -- values -----------------------------------------------------------------------------------------------------------


def test_clipping_by_value_where_an_update_replaces_the_step(cli, outputs):
    clipped = ["+trainer.gradient_clip_algorithm=value", "trainer.gradient_clip_val=0.1"]
    answer = cli("train", *TINY, "method=rigl", *clipped)
    assert answer.code == 0, answer.err
    (path,) = outputs.rglob("result.json")
    result = json.loads(path.read_text())
    assert (result["steps"], result["target_reached"]) == (16, True)


@pytest.mark.parametrize("devices", ["0", "-1", "-2"])
def test_devices_that_cannot_be(cli, outputs, devices):
    one_line(cli("train", *TINY, f"trainer.devices={devices}"), "devices")
    assert not list(outputs.glob("*/*"))


def test_a_tilde_is_the_home_in_every_path(cli, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "t.json").write_text('{"a": 0.5}')
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "e.yaml").write_text(
        "# @package _global_\n# Elsewhere\noutput_root: ~/x\ndata_root: ~/d\n"
    )
    config = compose_config(["data_root='~/d'", "distribution=table", "distribution.path='~/t.json'"])
    assert config["distribution"]["path"] == str(tmp_path / "t.json")
    assert (config["data_root"], config["dataset"].get("root", str(tmp_path / "d"))) == (str(tmp_path / "d"),) * 2
    answer = cli("train", *TINY, "method=static", "--config-dir", "mine", "experiment=e")
    assert answer.code == 0, answer.err
    assert list((tmp_path / "x").rglob("DONE"))
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("key", ["prunable.exclude", "prunable.include", "prunable.types"])
def test_a_word_where_a_list_belongs(key):
    group, _, name = key.partition(".")
    assert compose_config([f"{key}=linear"])[group][name] == ["linear"]


# -- letters ----------------------------------------------------------------------------------------------------------


def test_letters_in_a_comment_where_the_system_knows_ascii_only(tmp_path):
    (tmp_path / "mine" / "method").mkdir(parents=True)
    (tmp_path / "mine" / "method" / "own.yaml").write_text(
        "# Größe zählt, 大小\n_target_: sparsebench.methods.Static # für alle\ndensity: 0.5\n", encoding="utf-8"
    )
    for arguments in (["list", "method"], ["train", "method=own", *TINY]):
        done = command(*arguments, "--config-dir", "mine", cwd=tmp_path, **PLAIN)
        assert (done.returncode, done.stderr) == (0, ""), arguments
    assert list((tmp_path / "outputs").rglob("DONE"))


# -- data of one's own ------------------------------------------------------------------------------------------------

OWN = """
import torch
from sparsebench.data import ImageData
from sparsebench.data.resident import Resident


class Numbered(ImageData):
    classes, shape = 3, (1, 8, 8)

    def read_train(self):
        labels = torch.arange(96) % 3 + 1
        return Resident(torch.zeros(96, 1, 8, 8, dtype=torch.uint8), labels, mean=(0.5,), std=(0.5,))

    read_test = read_train
"""


def test_labels_that_begin_at_1_are_refused_before_training(cli, outputs, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mine" / "dataset").mkdir(parents=True)
    (tmp_path / "mine" / "numbered_from_1.py").write_text(OWN)
    (tmp_path / "mine" / "dataset" / "numbered.yaml").write_text(
        "# Numbered from 1\n_target_: numbered_from_1.Numbered\n_partial_: true\nroot: ${data_root}\n"
        "batch_size: 16\nval_share: 0.1\nlimit: null\nworkers: 0\n"
    )
    given = [part for part in TINY if not part.startswith("dataset")]
    answer = cli("train", "--config-dir", "mine", *given, "dataset=numbered", "method=static")
    one_line(answer, "training labels of Numbered are torch.int64, 1 to 3: give int64 from 0 to 2 (classes=3)")
    assert not list(outputs.rglob("single.*"))
