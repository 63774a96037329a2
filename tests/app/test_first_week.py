"""What a new user types in the first week: wrong words are answered in one line, and numbers are those of the data."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from support import disk_of

from sparsebench.app.process import threads

RGB = ["dataset=synthetic", "dataset.shape=[3,32,32]", "dataset.classes=10"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["batch_size=32"], "unknown key 'batch_size' (did you mean 'dataset.batch_size'?)"),
        (["model=resnet-18"], "unknown model 'resnet-18' (did you mean 'resnet18'?)"),
        (["model=vgg19"], "needs images of at least 16 x 16 pixels, got 8 x 8: choose a data set with larger images"),
        (["pattern=n_of_m", "sparsity=0.9"], "2:4 has sparsity 0.5, but 0.9 is requested: choose sparsity=0.5, or"),
        (
            [*RGB, "model=resnet20", "pattern=n_of_m", "sparsity=0.5"],
            "leave the layer dense with prunable.exclude=[conv1",
        ),
        ([*RGB, "model=timm", "model.name=mobilenetv3_small_050", "pattern=n_of_m", "sparsity=0.5"], "conv_dw.weight,"),
        (["schedule=step", "schedule.milestones=[30,60]"], "must be shares of the budget in (0, 1], never steps or"),
        (["schedule.warmup=5"], "warmup 5 is impossible: choose a share of the budget in [0, 1)"),
        (["sparsity=0.99999"], "use a sparsity of at most 0."),
        (["recipe=imp", "method=rigl"], "and so does method RigL"),
        (["optimizer.lr=-1"], "-1"),
        (["every=0"], "every must be > 0"),
        (["prunable.exclude=[fcc]"], "'fcc' matches no parameter (did you mean 'f"),
        (["trainer.precision=fp16"], "Allowed precision values: "),
        (["trainer.accelerator=tpu"], "the trainer cannot be built: "),
        (["+model.drop_rate=0.1"], "has no option 'drop_rate'"),
        (["sparsity=0.9,0.95"], "sparsity=0.9,0.95 gives several values: add -m to train a run for each"),
        (["model=timm", "model.name=resnet999"], "has no model 'resnet999' (did you mean"),
        (["hydra.output_subdir=x"], "hydra.output_subdir has no effect here"),
        (["hydra.verbose=true"], "hydra.verbose has no effect here"),
    ],
)
def test_one_line_and_nothing_left_behind(cli, tiny, tmp_path, arguments, message):
    other_model = any(part.startswith("model=") for part in arguments)
    kept = [part for part in tiny if not (other_model and part.startswith("model."))]
    answer = cli("train", *kept, *arguments)
    assert answer.code == 2, answer.err
    errors = [line for line in answer.err.splitlines() if line.startswith("sparsebench: error: ")]
    assert len(errors) == 1
    assert "Traceback" not in answer.err
    assert message in errors[0]
    assert [name for name in disk_of(tmp_path) if not name.endswith(".lock")] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pattern=channels", "execution=compact"], "choose a method that does not (set, static, gmp, magnitude"),
        (["method=linbreg", "optimizer=sgd"], "it needs LinBreg or AdaBreg (optimizer=linbreg or adabreg)"),
    ],
)
def test_what_is_refused_when_training_begins_is_one_line(cli, tiny, arguments, message):
    answer = cli("train", *tiny, *arguments)
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert message in answer.err


def folder(root, swapped):
    """Write images whose class is their brightness, with the labels of the test images swapped or not."""
    chance = np.random.default_rng(0)
    for part in ("train", "val"):
        for name, light in (("bright", 200), ("dark", 30)):
            light = 230 - light if swapped and part == "val" else light
            (root / part / name).mkdir(parents=True)
            for index in range(12):
                pixels = (light + chance.integers(0, 20, (8, 8, 3))).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{index}.png")
    return root


def test_another_folder_of_images_has_its_own_accuracy(cli, tmp_path, outputs):
    """Once, the second command printed the accuracy of the first, and the report called both repeats."""
    small = ["dataset.shape=[3,8,8]", "dataset.batch_size=8", "dataset.workers=0", "dataset.augment=false"]
    words = ["train", "method=dense", "model=mlp", "model.hidden=[8]", "dataset=imagefolder", *small, "progress=none"]
    words += ["trainer.accelerator=cpu", "trainer.max_epochs=6", "optimizer.lr=0.05", "dataset.val_share=0.25"]
    for name in ("a", "b"):
        answer = cli(*words, f"data_root={folder(tmp_path / name, swapped=name == 'b')}")
        assert (answer.code, "is finished" in answer.out) == (0, False), answer.err
    found = [json.loads(path.read_text())["test_accuracy"] for path in outputs.rglob("result.json")]
    assert sorted(found) == [0.0, 1.0], "the same training images; in b, the labels of the test images are swapped"
    document = json.loads(cli("report", "--format", "json").out)
    assert len(document["rows"]) == 2
    assert not [note for note in document["notes"] if "counted once" in note]
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    assert "is finished" in cli(*words, f"data_root={tmp_path / 'c'}").out, "the same images in another place"


@pytest.fixture
def two_threads(monkeypatch):
    for name in threads.SET_BY:
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def used(cli, outputs, tiny, name):
    assert cli("train", *tiny, "method=static", "trainer.max_epochs=1", f"name={name}").code == 0
    (path,) = (outputs / name).rglob("result.json")
    return json.loads(path.read_text())["hardware"]["threads"]


def test_small_networks_use_one_thread_unless_told_otherwise(cli, outputs, tiny, two_threads, monkeypatch):
    assert used(cli, outputs, tiny, "small") == 1
    assert torch.get_num_threads() == 2, "the next run of this process chooses its own"
    monkeypatch.setattr(threads, "SMALL", 0.0)
    assert used(cli, outputs, tiny, "large") == 2
    monkeypatch.setattr(threads, "SMALL", 5e9)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert used(cli, outputs, tiny, "told") == 2
