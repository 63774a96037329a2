import pytest
import torch
import torch.nn.functional as F

from sparsebench.data.loader import TrainLoader
from sparsebench.data.resident import Resident, Shift, normalise, pad, slide

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def random_images(count, shape, seed=0):
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def slowly(image, row, column, mirrored, padding, mode):
    """One image as a textbook would do it, in float64."""
    padded = F.pad(image.double()[None], [padding] * 4, mode="constant" if mode == "zero" else mode)[0]
    crop = padded[:, row : row + image.shape[1], column : column + image.shape[2]]
    crop = crop.flip(-1) if mirrored else crop
    return torch.stack([(crop[c] / 255 - MEAN[c]) / STD[c] for c in range(3)])


@pytest.mark.parametrize("mode", ["zero", "reflect"])
@pytest.mark.parametrize(("padding", "mirror"), [(4, True), (1, False), (0, True)])
def test_the_gather_equals_pad_crop_flip_normalise_one_by_one(mode, padding, mirror):
    shift = Shift(padding=padding, flip=mirror, mode=mode)
    images, labels = random_images(40, (3, 9, 7)), torch.arange(40)
    source = Resident(images.clone(), labels, mean=MEAN, std=STD, shift=shift)
    rows, columns, mirrored = shift.draw(40, (11, 5))
    for batch, classes in source.batches([torch.tensor([3, 0, 39, 3]), torch.arange(4, 30)], draw=(11, 5)):
        for image, label in zip(batch, classes.tolist(), strict=True):
            expected = slowly(images[label], rows[label], columns[label], mirrored[label], padding, mode)
            torch.testing.assert_close(image, expected.float(), rtol=0, atol=1e-5)
    for batch, classes in source.batches([torch.arange(40)]):  # the originals survive the padding
        assert torch.equal(batch, normalise(images, MEAN, STD))
        assert torch.equal(classes, labels)


def test_draws_cover_all_shifts_and_both_sides():
    rows, columns, mirrored = Shift(padding=4).draw(9000, (0, 0))
    for offsets in (rows, columns):
        counts = torch.bincount(offsets, minlength=9)
        assert len(counts) == 9
        assert counts.min() > 850  # 1000 expected, deviation 30
        assert counts.max() < 1150
    assert 0.47 < mirrored.float().mean() < 0.53
    assert not torch.equal(rows, columns)


def test_draws_differ_between_epochs_and_seeds_and_not_with_the_batch():
    shift = Shift()
    first = torch.stack([part.long() for part in shift.draw(50, (0, 0))])
    assert torch.equal(first, torch.stack([part.long() for part in shift.draw(50, (0, 0))]))
    for other in ((0, 1), (1, 0)):
        assert not torch.equal(first, torch.stack([part.long() for part in shift.draw(50, other)]))
    images = random_images(12, (3, 8, 8))
    small, large = (
        Resident(images.clone(), torch.arange(12), mean=MEAN, std=STD).batches(
            torch.arange(12).split(size), draw=(2, 3)
        )
        for size in (3, 12)
    )
    assert torch.equal(torch.cat([x for x, _ in small]), torch.cat([x for x, _ in large]))


def test_the_crops_are_a_view():
    padded = pad(random_images(5, (3, 8, 8)), 2)
    crops = slide(padded, 2)
    assert crops.shape == (5, 5, 5, 3, 8, 8)
    assert crops.data_ptr() == padded.data_ptr()


def test_padding_of_floats_and_bytes_equals_torch():
    images = random_images(2, (3, 6, 5))
    assert torch.equal(pad(images, 3), F.pad(images, [3] * 4))
    assert torch.equal(pad(images, 4, mode="reflect").float(), F.pad(images.float(), [4] * 4, mode="reflect"))


def test_normalised_images_have_mean_zero_and_deviation_one():
    images = random_images(50, (3, 8, 8))
    mean = tuple((images.double() / 255).mean((0, 2, 3)).tolist())
    std = tuple((images.double() / 255).std((0, 2, 3)).tolist())
    result = normalise(images, mean, std)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(result.std((0, 2, 3)), torch.ones(3), rtol=0, atol=1e-5)


def test_batches_are_new_memory_and_fit_for_training_after_inference_mode():
    source = Resident(random_images(8, (3, 8, 8)), torch.arange(8), mean=MEAN, std=(0.11, 0.12, 0.13))
    with torch.inference_mode():
        list(source.batches([torch.arange(8)], draw=(0, 0)))
    weight = torch.ones(3, 3, 1, 1, requires_grad=True)
    for images, _ in TrainLoader(source, batch_size=4):
        F.conv2d(images, weight).sum().backward()
        images.zero_()
    assert source.images.any()


@pytest.mark.parametrize(
    ("options", "message"), [({"mode": "edge"}, "zero or reflect"), ({"padding": -1}, "0 or more pixels")]
)
def test_bad_shifts_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Shift(**options)


def test_reflection_needs_a_large_image():
    with pytest.raises(ValueError, match="give fewer"):
        pad(random_images(1, (1, 4, 4)), 4, mode="reflect")
