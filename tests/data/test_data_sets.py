from types import SimpleNamespace

import pytest
import torch

from sparsebench.data import CIFAR10, Digits, ImageData, Synthetic
from sparsebench.data.base import resolve_root


def labels_of(loader):
    return torch.cat([labels for _, labels in loader])


def pixels_of(loader):
    return {tuple(image.reshape(-1).tolist()) for images, _ in loader for image in images}


def test_digits_have_the_promised_form():
    data = Digits(batch_size=100)
    images, labels = next(iter(data.train_dataloader()))
    assert isinstance(data, ImageData)
    assert images.shape == (100, *data.shape)
    assert (images.dtype, labels.dtype, data.classes) == (torch.float32, torch.int64, 10)
    assert len(labels_of(data.test_dataloader())) == 360
    assert len(labels_of(data.val_dataloader())) == 144  # a tenth of the other 1437
    assert len(data.training_sets()[0]) == 1293
    counts = torch.bincount(labels_of(data.test_dataloader()))
    assert counts.min() >= 34
    assert counts.max() <= 38


def test_digit_pixels_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    expected = {tuple((image.reshape(-1) * 255 / 16).round().astype(int)) for image in load_digits().images}
    data = Digits()
    stored = torch.cat([data.read_train().images, data.read_test().images])
    assert {tuple(image.reshape(-1).tolist()) for image in stored} == expected
    assert len(stored) == 1797


def test_digits_are_normalised():
    data = Digits(augment=False, val_share=0)
    images = torch.cat([x for loader in (data.train_dataloader(), data.test_dataloader()) for x, _ in loader])
    assert abs(images.mean()) < 0.02
    assert abs(images.std() - 1) < 0.02


def test_train_val_and_test_are_disjoint_and_the_test_set_is_fixed():
    one, two = (Digits(batch_size=1, augment=False, split_seed=seed) for seed in (0, 1))
    train, val, test = (pixels_of(getattr(one, f"{part}_dataloader")()) for part in ("train", "val", "test"))
    assert not train & val
    assert not train & test
    assert not val & test
    assert test == pixels_of(two.test_dataloader())
    assert val != pixels_of(two.val_dataloader())
    assert train | val == pixels_of(two.train_dataloader()) | pixels_of(two.val_dataloader())


def test_the_order_seed_moves_neither_split_nor_test():
    one, two = Digits(order_seed=0), Digits(order_seed=1)
    assert pixels_of(one.val_dataloader()) == pixels_of(two.val_dataloader())
    assert not torch.equal(labels_of(one.train_dataloader()), labels_of(two.train_dataloader()))
    two.order_seed = 0
    assert torch.equal(labels_of(one.train_dataloader()), labels_of(two.train_dataloader()))


def test_the_test_set_is_read_by_test_dataloader_only():
    data = Digits()
    data.prepare_data()
    data.setup("fit")
    list(data.train_dataloader())
    list(data.val_dataloader())
    assert data.reads == {"train": 1, "test": 0}
    data.test_dataloader()
    data.test_dataloader()
    data.train_dataloader()
    assert data.reads == {"train": 1, "test": 1}


def test_without_held_out_images_there_is_no_val_loader():
    data = Digits(val_share=0)
    assert data.val_dataloader() == []
    assert len(data.training_sets()[0]) == 1437


def test_limit_takes_a_balanced_few_and_leaves_validation_alone():
    data = Digits(limit=50, batch_size=8)
    assert torch.bincount(data.training_sets()[0].labels).tolist() == [5] * 10
    assert len(data.train_dataloader()) == 6
    assert len(labels_of(data.val_dataloader())) == 144


def test_the_trainer_tells_rank_and_device():
    alone = next(iter(Digits(batch_size=8).train_dataloader()))
    for rank in range(2):
        data = Digits(batch_size=8)
        strategy = SimpleNamespace(root_device=torch.device("cpu"))
        data.trainer = SimpleNamespace(world_size=2, global_rank=rank, strategy=strategy)
        images, labels = next(iter(data.train_dataloader()))
        assert torch.equal(images, alone[0][rank::2])
        assert torch.equal(labels, alone[1][rank::2])
    data.trainer.strategy.root_device = torch.device("meta")
    assert next(iter(data.train_dataloader()))[0].device.type == "meta"


def test_a_batch_that_the_ranks_cannot_share_is_refused():
    data = Digits(batch_size=7)
    data.trainer = SimpleNamespace(world_size=2, global_rank=0)
    with pytest.raises(ValueError, match=r"batch_size=7 .* 2 ranks: give a multiple of 2, for example 8"):
        data.train_dataloader()


def test_eval_batch_size_follows_batch_size():
    assert len(next(iter(Digits(batch_size=50).test_dataloader()))[1]) == 50
    assert len(next(iter(Digits(batch_size=50, eval_batch_size=360).test_dataloader()))[1]) == 360


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: give 1 or more"),
        ({"eval_batch_size": 0}, "eval_batch_size=0: give 1 or more"),
        ({"limit": 0}, "limit=0: give 1 or more"),
        ({"val_share": 1.0}, "less than 1"),
        ({"val_share": -0.1}, "at least 0"),
        ({"workers": -1}, "workers=-1"),
    ],
)
def test_bad_numbers_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Digits(**options)


def test_synthetic_images_have_any_shape_and_can_be_told_apart():
    data = Synthetic(shape=[2, 12, 10], classes=4, train_size=200, test_size=30, batch_size=20)
    assert (data.shape, data.classes) == ((2, 12, 10), 4)
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (20, 2, 12, 10)
    assert len(labels_of(data.test_dataloader())) == 30
    plain = Synthetic(shape=(2, 12, 10), classes=4, train_size=200, test_size=30, augment=False)
    train_images, train_labels = (torch.cat(parts) for parts in zip(*plain.train_dataloader(), strict=True))
    means = torch.stack([train_images[train_labels == label].mean(0) for label in range(4)])
    for images, labels in plain.test_dataloader():
        assert torch.equal(torch.cdist(images.flatten(1), means.flatten(1)).argmin(1), labels)


@pytest.mark.parametrize("options", [{"shape": (3, 8)}, {"classes": 0}, {"shape": (3, 0, 8)}, {"test_size": 0}])
def test_bad_synthetic_sizes_are_refused(options):
    with pytest.raises(ValueError, match="give three sizes"):
        Synthetic(**options)


def test_the_environment_names_the_root_if_nothing_else_does(monkeypatch, tmp_path):
    monkeypatch.setenv("SPARSEBENCH_DATA", str(tmp_path))
    assert resolve_root(None) == tmp_path
    assert str(resolve_root("data")) == "data"
    assert CIFAR10(root=None).root == tmp_path
    monkeypatch.delenv("SPARSEBENCH_DATA")
    assert str(resolve_root(None)) == "data"
