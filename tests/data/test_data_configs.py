import inspect
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

import sparsebench.data
from sparsebench.data import ImageData

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "conf" / "dataset").glob("*.yaml"))
COMMON = set(inspect.signature(ImageData.__init__).parameters) - {"self"}
SEEDS = {"split_seed", "order_seed"}  # come from the run, not from the data set


def test_all_are_there():
    names = [path.stem for path in CONFIGS]
    assert names == [
        "cifar10",
        "cifar100",
        "digits",
        "fashion_mnist",
        "imagefolder",
        "imagenet",
        "mnist",
        "synthetic",
        "tiny_imagenet",
    ]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_makes_its_data_set(path, tmp_path):
    (tmp_path / "train" / "class").mkdir(parents=True)
    config = OmegaConf.create({"data_root": str(tmp_path), "dataset": OmegaConf.load(path)})
    data = instantiate(config.dataset)(split_seed=1, order_seed=2)
    assert isinstance(data, ImageData)
    assert data.split_seed == 1
    assert isinstance(data.shape, tuple)
    assert all(type(size) is int for size in data.shape)
    if path.stem == "imagenet":
        assert (data.classes, data.shape, data.root) == (1000, (3, 224, 224), tmp_path / "imagenet")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_names_every_keyword_with_one_comment_on_top(path):
    config = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    first, second, *_ = path.read_text().splitlines()
    assert first.startswith("# ")
    assert second.startswith("_target_: ")
    assert config.pop("_partial_") is True
    cls = getattr(sparsebench.data, config.pop("_target_").removeprefix("sparsebench.data."))
    own = set(inspect.signature(cls.__init__).parameters) - {"self", "common", "options"}
    assert set(config) == (COMMON | own) - SEEDS
