"""Data of one's own: labels and images that do not fit are refused in one line, before a step is taken."""

import pytest
import torch

from sparsebench.data import ImageData
from sparsebench.data.resident import Resident

SOUND = [0, 1, 2] * 8


def resident(labels, images=None):
    labels = torch.as_tensor(labels)
    images = torch.zeros(len(labels), 1, 4, 4, dtype=torch.uint8) if images is None else images
    return Resident(images, labels, mean=(0.5,), std=(0.5,))


class Plain:
    """A source of one's own, which checks nothing."""

    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)


class Own(ImageData):
    classes = 3
    shape = (1, 4, 4)

    def __init__(self, train=SOUND, val=None, test=SOUND, **options):
        super().__init__(**{"batch_size": 4, "val_share": 0.25, **options})
        self.of = {"train": train, "val": val, "test": test}

    def read(self, part):
        labels = self.of[part]
        return resident(labels) if isinstance(labels, list) else labels

    def read_train(self):
        return self.read("train")

    def read_val(self):
        return self.read("val")

    def read_test(self):
        return self.read("test")


def refusal(call):
    with pytest.raises(ValueError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_sound_labels_pass():
    data = Own()
    assert len(data.training_sets()[0]) == 18
    assert len(data.test_dataloader()) == 6


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([1, 2, 3] * 8, "are torch.int64, 1 to 3: give int64 from 0 to 2 (classes=3)"),
        ([-1, 0, 1, 2] * 6, "are torch.int64, -1 to 2: give int64 from 0 to 2 (classes=3)"),
        ([0, 1, 2, 255] * 6, "are torch.int64, 0 to 255: give int64 from 0 to 2 (classes=3)"),
        (Plain(torch.tensor(SOUND, dtype=torch.int32)), "are torch.int32, 0 to 2: give int64 from 0 to 2"),
        (Plain(torch.tensor(SOUND) / 1), "are torch.float32, 0 to 2: give int64 from 0 to 2"),
        (Plain(torch.eye(3).repeat(8, 1).long()), "are Tensor of shape [24, 3]: give int64 from 0 to 2"),
        (Plain(torch.tensor(SOUND).numpy()), "are ndarray of shape [24]: give int64 from 0 to 2"),
        (Plain(SOUND), "are list: give int64 from 0 to 2"),
        (Plain(torch.zeros(0, dtype=torch.int64)), "there are none; give int64 from 0 to 2"),
    ],
)
@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_labels_that_do_not_number_the_classes_from_0_are_refused(labels, said, part):
    data = Own(**{part: labels})
    answer = refusal(data.test_dataloader if part == "test" else data.train_dataloader)
    name = {"train": "training", "val": "validation", "test": "test"}[part]
    assert answer.startswith(f"{name} labels of Own")
    assert said in answer


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"train": [0, 1] * 12}, "Own leaves class 2 of 3 without training images: use more images"),
        ({"train": [0, 1] * 9 + [2], "val_share": 0.9}, "of 3 without training images: use more images"),
        ({"train": sorted(SOUND), "split": "last", "val_share": 0.4}, "Own leaves class 2 of 3 without training"),
    ],
)
def test_classes_that_end_up_without_training_images_are_refused(options, said):
    assert said in refusal(Own(**options).train_dataloader)


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (
            torch.zeros(3, 1, 4, 4),
            [0, 1, 2],
            "images are torch.float32 of shape [3, 1, 4, 4]: give bytes (torch.uint8)",
        ),
        (torch.zeros(3, 1, 4, 4, dtype=torch.uint16), [0, 1, 2], "images are torch.uint16 of shape [3, 1, 4, 4]"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), [0, 1, 2], "images are torch.uint8 of shape [3, 4, 4]: give bytes"),
        (torch.zeros(3, 1, 4, 4, dtype=torch.uint8), [0, 1], "3 images have 2 labels: give one label for each image"),
        (None, [0.0, 1.0], "labels are torch.float32: give int64"),
    ],
)
def test_arrays_that_are_no_images_with_labels_are_refused(images, labels, said):
    assert said in refusal(lambda: resident(labels, images))
