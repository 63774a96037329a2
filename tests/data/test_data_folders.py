import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from sparsebench.data import ImageFolder, TinyImageNet


def labels_of(loader):
    return torch.cat([labels for _, labels in loader])


def write_tree(root, parts=("train", "val"), classes=("cat", "dog"), count=6):
    random = np.random.default_rng(0)
    for part in parts:
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 256, (10, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{index}.png")
    return root


def make(root, **options):
    return ImageFolder(root=root, shape=(3, 8, 8), batch_size=4, **options)


def test_without_a_test_folder_val_is_the_test_set(tmp_path):
    data = make(write_tree(tmp_path), val_share=0.5)
    assert (data.classes, data.shape) == (2, (3, 8, 8))
    assert [len(part) for part in data.training_sets()] == [6, 6]
    assert all("/train/" in path for part in data.training_sets() for path in part.paths)
    assert labels_of(data.test_dataloader()).tolist() == [0] * 6 + [1] * 6
    assert all("/val/" in path for path in data.read_test().paths)
    assert next(iter(data.train_dataloader()))[0].shape == (4, 3, 8, 8)


def test_with_a_test_folder_val_chooses(tmp_path):
    data = make(write_tree(tmp_path, ("train", "val", "test")), val_share=0.5)
    train, val = data.training_sets()
    assert len(train) == 12
    assert all("/val/" in path for path in val.paths)
    assert all("/test/" in path for path in data.read_test().paths)


def test_with_train_and_test_only_validation_is_held_out(tmp_path):
    data = make(write_tree(tmp_path, ("train", "test")), val_share=0.5)
    data.prepare_data()
    train, val = data.training_sets()
    assert not set(train.paths) & set(val.paths)
    assert all("/train/" in path for path in val.paths)


def test_missing_folders_say_what_is_wanted(tmp_path):
    with pytest.raises(FileNotFoundError, match="train/CLASS/IMAGE") as caught:
        make(tmp_path)
    assert str(tmp_path / "train") in str(caught.value)
    assert "\n" not in str(caught.value)
    data = make(tmp_path, classes=1000)  # the network can be built without the data
    assert data.classes == 1000
    with pytest.raises(FileNotFoundError, match=r"dataset\.root"):
        data.prepare_data()
    with pytest.raises(FileNotFoundError, match="val"):
        make(write_tree(tmp_path, ("train",))).prepare_data()


def test_another_number_of_classes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="2 class folders, not 3"):
        make(write_tree(tmp_path), classes=3).train_dataloader()


def test_a_class_without_training_images_is_refused(tmp_path):
    data = make(write_tree(tmp_path))
    (tmp_path / "val" / "cow").mkdir()
    with pytest.raises(ValueError, match="cow is a class without a folder in train"):
        data.test_dataloader()


def test_empty_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="class cat has no images"):
        make(write_tree(tmp_path, count=0)).train_dataloader()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"shape": (1, 8, 8)}, "colour"), ({"resize": 7}, "less than the crop"), ({"scale": (0, 1)}, "above 0")],
)
def test_bad_numbers_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        ImageFolder(root=tmp_path, classes=2, **{"shape": (3, 8, 8), **options})


def test_imagenette(imagenette_root):
    data = ImageFolder(root=imagenette_root, batch_size=8, limit=16, eval_batch_size=250)
    assert (data.classes, data.shape) == (10, (3, 224, 224))
    alone = list(data.train_dataloader())
    workers = ImageFolder(root=imagenette_root, batch_size=8, limit=16, workers=2)
    for (x, y), (u, v) in zip(alone, workers.train_dataloader(), strict=True):
        assert x.shape == (8, 3, 224, 224)
        assert torch.equal(x, u)
        assert torch.equal(y, v)
    assert len(data.training_sets()[1]) == round(0.1 * len(data.read_train()))
    assert data.reads["test"] == 0
    assert len(data.test_dataloader()) == 2


def test_tiny_imagenet(tiny_root):
    options = {"root": tiny_root, "batch_size": 20, "limit": 60, "val_share": 0.1}
    data = TinyImageNet(**options)
    assert (data.classes, data.shape) == (20, (3, 64, 64))
    read = TinyImageNet(**options, resident=False, workers=2)
    for (x, y), (u, v) in zip(data.train_dataloader(), read.train_dataloader(), strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)
    assert torch.bincount(labels_of(data.val_dataloader())).tolist() == [5] * 20
    annotated = dict(line.split("\t")[:2] for line in (tiny_root / "val/val_annotations.txt").read_text().splitlines())
    names = sorted((tiny_root / "wnids.txt").read_text().split())
    test = read.read_test()
    assert len(test) == len(annotated) == 200
    for path, label in zip(test.paths, test.labels.tolist(), strict=True):
        assert annotated[path.rsplit("/", 1)[1]] == names[label]


def test_tiny_imagenet_lies_under_the_root_too(tiny_root, tmp_path):
    assert TinyImageNet(root=tmp_path).classes == 200  # not there yet: the full set's number
    with pytest.raises(FileNotFoundError, match=r"tiny-imagenet-200\.zip"):
        TinyImageNet(root=tmp_path).prepare_data()
    (tmp_path / "tiny-imagenet-200").mkdir()
    shutil.copy(tiny_root / "wnids.txt", tmp_path / "tiny-imagenet-200")
    assert TinyImageNet(root=tmp_path).classes == 20


def test_a_folder_of_a_class_without_images_is_refused(tmp_path):
    root = write_tree(tmp_path)
    (root / "train" / "emu").mkdir()
    (root / "train" / "emu" / "list.txt").write_text("")
    with pytest.raises(ValueError, match=r"class emu has no images .* end in \.jpg") as caught:
        make(root).training_sets()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_class_whose_images_are_all_of_a_type_that_is_not_read_is_refused(tmp_path, part):
    root = write_tree(tmp_path)
    for path in (root / part / "cat").iterdir():
        path.rename(path.with_suffix(".GIF"))
    with pytest.raises(ValueError, match=r"class cat has no images .* end in \.jpg"):
        make(root).training_sets() if part == "train" else make(root).prepare_data()


def test_images_of_a_type_that_is_not_read_are_named(tmp_path):
    root = write_tree(tmp_path)
    for index in (0, 1):
        (root / "train" / "dog" / f"{index}.png").rename(root / "train" / "dog" / f"{index}.gif")
    with pytest.warns(UserWarning, match=r"dog/0\.gif and all files that end in \.gif \(2 files\) are not read"):
        assert len(make(root).read_train()) == 10


def test_a_limit_that_leaves_a_class_without_images_is_refused(tmp_path):
    data = make(write_tree(tmp_path), val_share=0.0, limit=1)
    with pytest.raises(ValueError, match=r"dataset\.limit=1 leaves class \d of 2 without training images"):
        data.training_sets()


def test_hidden_entries_do_not_count_at_any_depth(tmp_path):
    root = write_tree(tmp_path)
    deep = root / "train" / "cat" / ".ipynb_checkpoints"
    deep.mkdir()
    shutil.copy(root / "train" / "cat" / "0.png", deep / "0-checkpoint.png")
    (root / "train" / "cat" / "._0.png").write_bytes(b"resource fork")
    assert len(make(root).read_train()) == 12


def test_links_to_folders_are_followed_and_loops_end(tmp_path):
    root = write_tree(tmp_path / "data")
    (root / "train" / "cat").rename(tmp_path / "elsewhere")
    (root / "train" / "cat").symlink_to(tmp_path / "elsewhere")
    (root / "train" / "dog" / "again").symlink_to(root / "train" / "dog")
    assert make(root).read_train().labels.bincount().tolist() == [6, 6]


def test_test_images_are_looked_for_before_training(tmp_path):
    root = write_tree(tmp_path)
    shutil.rmtree(root / "val")
    for name in ("cat", "dog"):
        (root / "val" / name).mkdir(parents=True)
    with pytest.raises(ValueError, match="val holds no image files"):
        make(root).prepare_data()


def write_tiny(root):
    (root / "val" / "images").mkdir(parents=True)
    (root / "wnids.txt").write_text("n1\nn2\n")
    (root / "val" / "val_annotations.txt").write_text("a.png\tn1\t0\nb.png\tn3\t0\n")
    return TinyImageNet(root=root)


def test_tiny_imagenet_refuses_classes_without_a_folder_of_training_images(tmp_path):
    data = write_tiny(tmp_path)
    write_tree(tmp_path, ("train",), classes=("n1",))
    with pytest.raises(ValueError, match="class n2 has no images"):
        data.train_dataloader()


def test_tiny_imagenet_checks_its_test_images_before_training(tmp_path):
    data = write_tiny(tmp_path)
    with pytest.raises(ValueError, match=r"names class n3, which wnids\.txt does not"):
        data.prepare_data()
    (tmp_path / "val" / "val_annotations.txt").write_text("a.png\tn1\t0\n")
    with pytest.raises(ValueError, match=r"a\.png is missing"):
        data.prepare_data()
    (tmp_path / "val" / "val_annotations.txt").unlink()
    with pytest.raises(ValueError, match="keep the original layout"):
        data.prepare_data()
