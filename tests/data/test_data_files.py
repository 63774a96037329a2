from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from sparsebench.data.files import Files, Zoom, _hinting, decode
from sparsebench.data.listing import list_classes, list_images
from sparsebench.data.loader import TrainLoader
from sparsebench.data.resident import Shift
from sparsebench.functional.random import generator

CONSTANTS = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


def write_images(folder, count, size=(20, 16)):
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for index in range(count):
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{index:03d}.png")
    return tuple(list_images(folder))


@pytest.fixture
def files(tmp_path):
    paths = write_images(tmp_path, 12)
    return Files(paths, torch.arange(12), **CONSTANTS, change=Zoom(size=(8, 8), resize=10))


@pytest.fixture
def small(tmp_path):
    paths = write_images(tmp_path, 12, size=(8, 8))
    return Files(paths, torch.arange(12), **CONSTANTS, change=Shift(padding=2))


def collect(source, **options):
    loader = TrainLoader(source, batch_size=4, order_seed=1, **options)
    loader.set_epoch(2)
    return list(loader)


def assert_same(first, second):
    assert len(first) == len(second)
    for (x, y), (u, v) in zip(first, second, strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)


@pytest.mark.parametrize("kind", ["files", "small"])
def test_workers_change_no_pixel(kind, request):
    source = request.getfixturevalue(kind)
    state = torch.get_rng_state()
    alone = collect(source)
    assert_same(alone, collect(replace(source, workers=2)))
    assert torch.equal(state, torch.get_rng_state())
    assert alone[0][0].shape == (4, 3, 8, 8)
    assert alone[0][0].dtype == torch.float32


def test_resuming_with_workers_equals_never_stopping(files):
    source = replace(files, workers=2)
    whole = collect(source)
    stopped = TrainLoader(source, batch_size=4, order_seed=1)
    stopped.set_epoch(2)
    iterator = iter(stopped)
    next(iterator)  # the workers have read further than that
    state = stopped.state_dict()
    iterator.close()
    assert state == {"epoch": 2, "position": 1}
    resumed = TrainLoader(source, batch_size=4, order_seed=1)
    resumed.load_state_dict(state)
    assert_same(list(resumed), whole[1:])


def test_pixels_depend_on_seed_epoch_and_image_alone(files):
    first = files.pixels(3, (0, 0))
    torch.rand(5)
    files.pixels(4, (0, 0))
    assert torch.equal(first, files.pixels(3, (0, 0)))
    assert not torch.equal(first, files.pixels(3, (0, 1)))
    assert not torch.equal(first, files.pixels(3, (1, 0)))


def test_resident_and_read_anew_give_the_same_pixels(small):
    assert_same(collect(small), collect(small.load()))
    chosen = torch.tensor([7, 2])
    assert_same(list(small.batches([chosen])), list(small.load().batches([chosen])))


def test_a_crop_that_keeps_everything_is_the_resized_image():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    whole = Zoom(size=(16, 16), resize=16, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    expected = torch.from_numpy(pixels).permute(2, 0, 1)
    seen = {False: 0, True: 0}
    for seed in range(20):
        result = whole.train(image, generator(seed))
        mirrored = bool(torch.equal(result, expected.flip(2)))
        assert mirrored or torch.equal(result, expected)
        seen[mirrored] += 1
    assert min(seen.values()) > 3
    assert torch.equal(whole.evaluate(image), expected)


def test_evaluation_takes_the_centre():
    pixels = np.zeros((10, 30, 3), dtype=np.uint8)
    pixels[:, 10:20] = 200  # the central square of the wide image
    result = Zoom(size=(10, 10), resize=10).evaluate(Image.fromarray(pixels))
    assert (result == 200).all()


def test_boxes_lie_in_the_image_and_keep_the_promised_area_and_ratio():
    zoom, random = Zoom(), generator(0)
    areas = []
    for _ in range(2000):
        top, left, height, width = zoom.draw_box(200, 300, random)
        assert 0 <= top <= 200 - height
        assert 0 <= left <= 300 - width
        assert 0.74 < width / height < 1.36
        areas.append(height * width / 60000)
    areas = torch.tensor(areas)
    assert 0.075 < areas.min() < 0.09
    assert 0.85 < areas.max() <= 1
    # The area is uniform on [0.08, 1] where every shape fits: below (3/4) * (2/3) / (4/3) of it nothing is rejected.
    assert abs((areas < 0.2).sum() / (areas < 0.32).sum() - 0.5) < 0.06


@pytest.mark.parametrize(("height", "width", "expected"), [(10, 1000, (0, 493, 10, 13)), (1000, 10, (493, 0, 13, 10))])
def test_a_very_long_image_gives_its_centre(height, width, expected):
    assert Zoom(scale=(0.9, 1.0)).draw_box(height, width, generator(0)) == expected


def test_grey_images_become_colour(tmp_path):
    Image.fromarray(np.full((4, 4), 7, dtype=np.uint8)).save(tmp_path / "grey.png")
    assert decode(str(tmp_path / "grey.png")).mode == "RGB"


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "broken.png"
    if content is None:  # cut off in the middle
        write_images(tmp_path, 1)
        whole = (tmp_path / "000.png").read_bytes()
        content = whole[: len(whole) // 2]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.png cannot be read as an image") as caught:
        decode(str(path))
    assert "\n" not in str(caught.value)


def test_listing_is_sorted_and_skips_what_is_no_image(tmp_path):
    for name in ("b/2.JPEG", "b/1.png", "b/deep/3.webp", "b/notes.txt", ".hidden/1.png", "a/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "readme.txt").touch()
    assert list_classes(tmp_path) == ["a", "b"]
    assert [path.split("/b/")[1] for path in list_images(tmp_path / "b")] == ["1.png", "2.JPEG", "deep/3.webp"]


@pytest.mark.parametrize(("kind", "ending"), [(np.uint16, "png"), (np.uint16, "tiff"), (np.int32, "tiff")])
def test_pixels_of_16_bits_are_scaled_not_clipped(tmp_path, kind, ending):
    values = np.array([[0, 257 * 100], [257 * 200, 65535]], dtype=kind)
    Image.fromarray(values).save(tmp_path / f"deep.{ending}")
    assert np.asarray(decode(str(tmp_path / f"deep.{ending}")))[..., 0].tolist() == [[0, 100], [200, 255]]


@pytest.mark.parametrize("values", [[0, 65536], [-1, 5]])
def test_integers_beyond_16_bits_are_refused_not_clipped(tmp_path, values):
    Image.fromarray(np.array([values], dtype=np.int32)).save(tmp_path / "deep.tiff")
    with pytest.raises(ValueError, match=r"deep\.tiff .*its pixels are -?\d+ to \d+, beyond 16 bits"):
        decode(str(tmp_path / "deep.tiff"))


def test_whatever_a_decoder_raises_names_the_file(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((40, 40), dtype=np.uint8)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match=r"bomb\.png cannot be read as an image .*download it again or delete it"):
        decode(str(tmp_path / "bomb.png"))
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(tmp_path / "real.tiff")
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"real\.tiff .*unknown scale"):
        decode(str(tmp_path / "real.tiff"))


def test_a_reader_that_dies_is_explained():
    def dying():
        raise RuntimeError("DataLoader worker (pid 7) exited unexpectedly")
        yield

    with pytest.raises(ValueError, match=r"set dataset\.workers=0, or give the machine a larger /dev/shm"):
        list(_hinting(dying()))
