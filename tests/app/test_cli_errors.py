"""Wrong input: one clear line on stderr, a code that is not zero, nothing half-written."""

import importlib.util
import json
import subprocess
import sys

import pytest
from support import SHARED_DATA, command, disk_of, environment_of

from sparsebench.app.config.compose import compose_config

LIGHT = [
    [],
    ["--help"],
    ["--version"],
    ["list"],
    ["list", "methods"],
    ["list", "nothing"],
    ["trian"],
    ["train", "method=riggl"],
    ["train", "sparsity=1.2"],
    ["train", "sparsity=much"],
    ["train", "seed=-1"],
    ["train", "trainer.max_epochs=0"],
    ["train", "trainer.max_epoch=3"],
    ["train", "method.evry=3"],
    ["train", "--config-dir", "nowhere"],
    ["train", "--help"],
    ["train", "--cfg", "job"],
]


def test_help_lists_and_errors_answer_without_importing_torch(tmp_path):
    code = f"""
import contextlib, io, sys
from sparsebench.app.main import main
for arguments in {LIGHT!r}:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main(arguments)
        except SystemExit:
            pass
    heavy = {{"torch", "lightning", "torchvision", "timm", "numpy", "wandb", "sklearn"}} & set(sys.modules)
    if heavy:
        print(arguments, heavy)
        break
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, env=environment_of()
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert disk_of(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "unknown verb 'trian' (did you mean 'train'?)"),
        (["list", "modles"], "unknown group 'modles' (did you mean 'model'?)"),
        (["train", "dataset.batch_size=many"], "dataset.batch_size=many is not a number: choose a whole number"),
        (["list", "methods", "--json"], "list: '--json' is not known here: give one group"),
        (["list", "methods", "models"], "list: 'models' is not known here"),
        (["train", "epochs=10"], "unknown key 'epochs' (did you mean 'trainer.max_epochs'?); sparsebench train --cfg"),
        (["train", "-m", "hydra/launcher=pol"], "unknown hydra/launcher 'pol' (did you mean 'pool'?); available are"),
        (["train", "-m", "hydra/sweeper=gird"], "unknown hydra/sweeper 'gird' (did you mean 'grid'?); available are"),
        (
            ["train", "start_from=runs/a,sparsity=0.9/final.pt"],
            "start_from=runs/a,sparsity=0.9/final.pt does not exist",
        ),
        (
            ["train", "name=(a"],
            "name=(a cannot be read (Error parsing override 'name=(a'): put quotes around its value",
        ),
        (
            ["train", "distribution=table"],
            "distribution.path is missing and has no default: give distribution.path=...",
        ),
        (["train", "execution=1e-3"], "execution=0.001 cannot be imported"),
        (["train", "lr=0.1"], "unknown key 'lr' (did you mean 'optimizer.lr'?)"),
        (["train", "+foo=1"], "unknown key 'foo'; nothing would read it"),
        (["train", "+init=mb.pt"], "unknown key 'init'"),
        (["train", "+trainer.callbacks=[]"], "trainer.callbacks is set by sparsebench"),
        (["train", "+trainer.logger=false"], "trainer.logger is set by sparsebench: choose logger=csv"),
        (["train", "+trainer.max_time=00:00:01:00"], "training would end before its schedule"),
        (["train", "hydra.run.dir=x"], "hydra.run.dir has no effect here: runs are written to output_root/name/RUN"),
        (["train", "hydra.sweep.dir=x", "-m"], "hydra.sweep.dir has no effect here"),
        (["train", "hydra.job.chdir=true"], "hydra.job.chdir has no effect here"),
        (["train", "~schedule"], "~schedule cannot be left out: choose schedule=constant"),
        (["train", "~logger"], "~logger cannot be left out: choose logger=none"),
        (["train", "~sparsity"], "~sparsity cannot be left out"),
        (["train", "prunable.exclude=[1,[2]]"], "prunable.exclude=[1, [2]] is not a list of words"),
        (["train", "--multrun"], "unknown option --multrun (did you mean '--multirun'?); keys are set without dashes"),
        (["train", "--sparsity=0.9"], "unknown option --sparsity"),
        (["plan", "--jsn"], "unknown option --jsn"),
        (["train", "~trainer.devices"], "~trainer.devices is not possible: trainer.devices belongs to the option"),
        (["train", "~distribution._target_"], "~distribution._target_ is not possible"),
        (["train", "optimizer._partial_=7"], "optimizer._partial_=7 is not possible: optimizer._partial_ belongs to"),
        (["train", "trainer.gradient_clip_val=abc"], "trainer.gradient_clip_val=abc is not a number"),
        (
            ["train", "trainer.limit_test_batches=0"],
            "trainer.limit_test_batches=0 is impossible: choose a number",
        ),
        (["train", "trainer.limit_train_batches=0"], "trainer.limit_train_batches=0 is impossible"),
        (["train", "trainer.save_steps=0"], "trainer.save_steps=0 is impossible"),
        (["train", "trainer.save_seconds=null"], "trainer.save_seconds=null is impossible"),
        (["train", "seed=true"], "seed=true is not a number"),
        (["train", "trainer.devices=0"], "trainer.devices=0 is impossible: choose a number of devices of at least 1"),
        (
            ["train", "dataset.batch_size=16.5"],
            "dataset.batch_size=16.5 is impossible: choose a whole number of at least 1",
        ),
        (["train", "method=riggl"], "unknown method 'riggl' (did you mean 'rigl'?); available are"),
        (["train", "dataset=cifar"], "unknown dataset 'cifar' (did you mean 'cifar10'?)"),
        (["train", "-m", "method=rigl,sett"], "unknown method 'sett' (did you mean 'set'?)"),
        (["train", "sparsity=1.2"], "sparsity=1.2 is impossible: choose a share of zeros of at least 0 and below 1"),
        (["train", "sparsity=1"], "sparsity=1 is impossible"),
        (["train", "sparsity=-0.1"], "sparsity=-0.1 is impossible"),
        (["train", "sparsity=90"], "did you mean 0.9?"),
        (["train", "sparsity=much"], "sparsity=much is not a number"),
        (["train", "density=lots"], "density=lots is not a number"),
        (["train", "seed=-1"], "seed=-1 is impossible"),
        (["train", "seed=one"], "seed=one is not a number"),
        (["train", "dataset.batch_size=0"], "dataset.batch_size=0 is impossible"),
        (["train", "trainer.max_epochs=0"], "training has no end: set trainer.max_epochs or trainer.max_steps"),
        (["train", "progress=bar"], "progress=bar is unknown: choose auto, rich, lines or none"),
        (["train", "trainer.max_epoch=3"], "unknown key 'trainer.max_epoch' (did you mean 'trainer.max_epochs'?)"),
        (["train", "method=rigl", "method.evry=3"], "unknown key 'method.evry' (did you mean 'method.every'?)"),
        (["train", "--config-dir", "nowhere"], "--config-dir nowhere is not a folder"),
    ],
)
def test_wrong_words(cli, tmp_path, arguments, message):
    answer = cli(*arguments)
    assert answer.code == 2
    assert message in answer.err
    assert answer.err.startswith("sparsebench: error: ")
    assert answer.err.count("\n") == 1
    assert disk_of(tmp_path) == []


@pytest.mark.skipif(importlib.util.find_spec("hydra_plugins.hydra_ray_launcher") is not None, reason="Ray is installed")
def test_a_launcher_that_is_not_installed(cli, tmp_path):
    answer = cli("train", "-m", "seed=0,1", "hydra/launcher=ray")
    assert answer.code == 2
    assert "hydra/launcher=ray needs packages that are missing: install sparsebench[ray]" in answer.err
    assert disk_of(tmp_path) == []


def failed_run(answer, outputs):
    """One line, and of a run nothing but its configuration and the reason."""
    one_error(answer)
    names = {path.rpartition("/")[2] for path in disk_of(outputs)}
    assert not {"DONE", "result.json", "final.pt", "masks.pt"} & names
    assert not [name for name in names if name.endswith(".partial")]
    (reason,) = outputs.rglob("failed.txt")
    return reason.read_text()


def refused_run(answer, outputs):
    """One line, and no folder of a run that never trained."""
    one_error(answer)
    assert not list(outputs.glob("*/*"))


def one_error(answer):
    assert answer.code == 2
    assert answer.err.startswith("sparsebench: error: ")
    assert answer.err.count("\n") == 1


def test_a_layer_that_would_be_empty(cli, tiny, outputs):
    answer = cli("train", *tiny, "distribution=uniform", "sparsity=0.9999")
    refused_run(answer, outputs)
    assert "would keep 0; use a sparsity of at most 0.99" in answer.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["method=snip", "method.reinit=maybe"], "reinit='maybe' must be true or false"),
        (["method=vr_pge", "method.shuffle=3"], "shuffle=3 must be true or false"),
        (["trainer.channels_last=maybe"], "channels_last='maybe' must be true or false"),
        (["dataset.augment=null"], "augment=None must be true or false"),
        (["method=rigl", "method.until=soon"], "until='soon' must be a number"),
        (["optimizer.lr=fast"], "lr='fast' must be a number"),
        (["+dataset.cutmix=1"], "sparsebench.data.Digits does not take 'cutmix'; it takes augment, batch_size"),
        (["+optimizer.foo=1"], "torch.optim.SGD does not take 'foo'"),
        (["optimizer._target_=torch.optim.Adam"], "does not take 'momentum'"),
        (["trainer=gpu", "trainer.accelerator=gpu"], "the trainer cannot be built: "),
        (["trainer.precision=16-mixed"], "trainer.precision=16-mixed needs a GPU"),
        (["model.hidden=[16.5]"], "hidden widths must be whole numbers"),
    ],
)
def test_words_where_switches_and_numbers_belong(cli, tiny, outputs, arguments, message):
    answer = cli("train", *tiny, *arguments)
    refused_run(answer, outputs)
    assert message in answer.err


def test_missing_data(cli, tmp_path, outputs):
    answer = cli("train", "dataset=cifar10", "model=resnet20", "trainer.accelerator=cpu", "progress=none")
    refused_run(answer, outputs)
    assert str(tmp_path / "data") in answer.err


def test_damaged_data(cli, tmp_path, outputs):
    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]:
        (folder / name).write_bytes(b"not a pickle")
    answer = cli("train", "dataset=cifar10", "model=resnet20", "trainer.accelerator=cpu", "progress=none")
    refused_run(answer, outputs)
    assert "data_batch_1" in answer.err


@pytest.mark.skipif(not (SHARED_DATA / "cifar-10-batches-py").is_dir(), reason="no CIFAR-10 here")
def test_a_root_that_is_a_file(cli, tmp_path, outputs):
    (tmp_path / "data").write_text("")
    answer = cli("train", "dataset=cifar10", "model=resnet20", "trainer.accelerator=cpu", "progress=none")
    refused_run(answer, outputs)


def test_a_loss_that_is_no_number(cli, tiny, outputs):
    answer = cli("train", *tiny, "optimizer.lr=1e30")
    reason = failed_run(answer, outputs)
    assert "the training loss is" in answer.err
    assert "lower optimizer.lr" in answer.err
    assert reason.startswith("FloatingPointError: ")


def test_options_that_a_constructor_refuses(cli, tiny, outputs):
    answer = cli("train", *tiny, "method.drop_fraction=1.5")
    refused_run(answer, outputs)
    assert "drop_fraction 1.5 is impossible: choose a share in [0, 1)" in answer.err


def test_a_pattern_that_matches_nothing(cli, tiny, outputs):
    answer = cli("train", *tiny, "prunable.exclude=[fc1.weigth]")
    refused_run(answer, outputs)
    assert "did you mean 'fc.weight'" in answer.err or "did you mean 'features.fc1.weight'" in answer.err


def test_a_folder_of_another_run(cli, tiny, tmp_path):
    assert cli("train", *tiny, "trainer.max_epochs=1", "run_dir=here").code == 0
    before = {name: (tmp_path / name).read_bytes() for name in disk_of(tmp_path)}
    answer = cli("train", *tiny, "trainer.max_epochs=2", "run_dir=here", "rerun=true")
    assert answer.code == 2
    assert "here holds a run with another configuration (trainer.max_epochs: 1 there, 2 here)" in answer.err
    assert "choose another run_dir" in answer.err
    assert {name: (tmp_path / name).read_bytes() for name in disk_of(tmp_path)} == before


def test_density_is_translated_loudly(cli):
    answer = cli("train", "density=0.1", "--cfg", "job")
    assert answer.code == 0
    assert "density=0.1 is read as sparsity=0.9" in answer.out
    assert "sparsity: 0.9\n" in answer.out


def test_list_shows_each_option_with_its_comment(cli):
    answer = cli("list", "methods")
    assert answer.code == 0
    assert "RigL: drop by magnitude, grow by gradient" in answer.out
    assert cli("list", "method").out == answer.out


def test_values_of_another_yaml_type_are_read_as_meant(cli, tiny, outputs):
    tiny.remove("dataset.batch_size=16")
    answer = cli("train", *tiny, "name=2024", "dataset.batch_size=1.6e1", "trainer.max_epochs=1e0")
    assert answer.code == 0, answer.err
    (done,) = outputs.rglob("2024/*/DONE")
    assert json.loads((done.parent / "result.json").read_text())["epochs"] == 1


def test_a_word_where_a_list_belongs_is_a_list_of_one():
    assert compose_config(["logger=wandb", "logger.tags=baseline"])["logger"]["tags"] == ["baseline"]


def test_the_report_of_a_profiler_is_shown_and_a_warning_is_one_line(tiny, tmp_path):
    arguments = ["train", *tiny, "trainer.max_epochs=1", "+trainer.profiler=simple", "every=1000"]
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "FIT Profiler Report" in done.stderr
    said = [line for line in done.stderr.splitlines() if "no mask update falls into" in line]
    assert len(said) == 1
    assert said[0].startswith("sparsebench: warning: no mask update falls into 8 steps")
    assert ".py:" not in done.stderr


def test_a_tilde_is_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert compose_config(["output_root='~/x'"])["output_root"] == str(tmp_path / "x")
    assert compose_config(["run_dir='~/y'"])["run_dir"] == str(tmp_path / "y")


def test_a_plus_before_a_group_is_read_without(cli):
    answer = cli("train", "+experiment=quickstart", "--cfg", "job")
    assert answer.code == 0
    assert "name: quickstart" in answer.out


def test_a_network_that_cannot_process_the_images(cli, tiny):
    kept = [part for part in tiny if not part.startswith("model")]
    answer = cli("train", *kept, "model=timm", "model.name=vit_tiny_patch16_224")
    assert answer.code == 2
    assert "the network cannot process images of shape (1, 8, 8): Input height (8)" in answer.err
    assert answer.err.count("\n") == 1
