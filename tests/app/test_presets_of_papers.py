"""The presets of papers: every value says where it is from, the report finds the cell, two steps run."""

import pytest
from support import disk_of

from sparsebench.app.config.compose import compose_config
from sparsebench.app.config.tree import conf_dir, options
from sparsebench.results.published import load_published, match
from sparsebench.runs.identity import method_name, model_name

PAPERS = (
    "rigl_2020", "rigl_repro_2021", "itop_2021", "dst_ee_2023", "snip_2019", "grasp_2020", "granet_2021", "gmp",
    "srigl_2024",
)  # fmt: skip
UNREAD = {"dst_ee_2023": "dst_ee", "srigl_2024": "srigl"}
"""Presets of papers none of whose tables could be read -> key of the paper."""
PRESETS = [name for name in options("experiment") if name.split("/")[0] in PAPERS]
OLDER = ("rigl_2020/mnist_lenet300", "snip_2019/mnist_lenet300_adam", "snip_2019/mnist_lenet5_adam")
"""Presets with a recipe in the registry, which ``tests/results/test_reproduction.py`` holds them to."""
SOURCED = [name for name in PRESETS if name not in OLDER]
WHERE = ("[read]", "[quoted]", "[not stated]")


def test_every_paper_of_the_list_has_a_preset():
    assert {name.split("/")[0] for name in PRESETS} == set(PAPERS)
    assert len(SOURCED) >= 20


@pytest.mark.parametrize("name", SOURCED)
def test_every_value_says_where_it_is_from(name):
    text = (conf_dir() / "experiment" / f"{name}.yaml").read_text()
    body = text.partition("\nname: ")[2].splitlines()[1:]
    values = [line for line in body if line.strip() and not line.split("#")[0].strip().endswith(":")]
    assert len(values) >= 8
    assert [line for line in values if not any(f"# {tag}" in line for tag in WHERE)] == []


@pytest.mark.parametrize("name", PRESETS)
def test_the_report_finds_the_published_cell(name):
    config = compose_config([f"experiment={name}"])
    paper = name.split("/")[0]
    wanted = {
        "method": method_name(config["choices"]),
        "model": model_name(config),
        "dataset": config["choices"]["dataset"],
        "epochs": config["trainer"]["max_epochs"] or 0,
        "distribution": config["choices"]["distribution"],
    }
    if paper in UNREAD:
        assert not [entry for entry in load_published() if entry.paper == UNREAD[paper] and entry.value is not None], (
            "a table was read: take the preset out of UNREAD"
        )
        return
    found = match(sparsity=config["sparsity"], **wanted)
    if name == "rigl_2020/mnist_lenet300":  # the paper gives the sparsity of each layer, not of the network
        assert found is None
        return
    assert found is not None
    entry = found.published
    assert entry.epochs in (None, wanted["epochs"])
    assert entry.distribution in (None, wanted["distribution"])


@pytest.mark.parametrize(
    ("name", "paper", "value"),
    [
        ("rigl_2020/imagenet_resnet50", "rigl", 73.0),
        ("rigl_2020/cifar10_wrn22_2", "rigl", 92.9),
        ("rigl_repro_2021/cifar10_wrn22_2", "rigl_repro", 93.1),
        ("itop_2021/imagenet_resnet50", "itop", 73.8),
        ("granet_2021/cifar100_vgg19", "granet", 72.35),
        ("granet_2021/cifar10_resnet50", "granet", 94.44),  # not its row that starts at 50 %
        ("granet_2021/cifar100_resnet50", "granet", 77.29),
        ("gmp/cifar10_vgg19", "granet", 93.59),
        ("gmp/cifar10_wrn22_2", "rigl", 93.3),
        ("gmp/imagenet_resnet50", "state_of_sparsity", 73.9),
        ("grasp_2020/cifar10_vgg19", "grasp", 93.04),
        ("snip_2019/cifar100_vgg19", "grasp", 71.83),
        ("snip_2019/mnist_lenet300", "snip", 98.4),
    ],
)
def test_it_is_the_right_cell(name, paper, value):
    config = compose_config([f"experiment={name}"])
    found = match(
        method=method_name(config["choices"]),
        model=model_name(config),
        dataset=config["choices"]["dataset"],
        sparsity=config["sparsity"],
        epochs=config["trainer"]["max_epochs"] or 0,
        distribution=config["choices"]["distribution"],
    )
    assert (found.published.paper, found.published.value) == (paper, value)


@pytest.mark.filterwarnings("ignore:sparsity .* was reached")  # two steps of a gradual method
@pytest.mark.parametrize("name", SOURCED)
def test_two_steps_run_on_synthetic_images(cli, outputs, name):
    """Everything but the images, the size of a batch and the network is the preset's own."""
    channels = 1 if "mnist" in name else 3
    small = ["method.score_batches=1"] if name == "srigl_2024/imagenet_resnet50" else []
    small += [] if "mnist" in name else ["model=cnn_fashion"]
    answer = cli(
        "train", f"experiment={name}", "debug=smoke", "dataset=synthetic", f"dataset.shape=[{channels},28,28]",
        "dataset.classes=10", "dataset.val_share=0.2", "dataset.batch_size=16", "dataset.train_size=160",
        "dataset.test_size=20",
        "every=1", "trainer.max_epochs=-1",
        "trainer.max_steps=2", "trainer.accelerator=cpu", "progress=none", *small,
    )  # fmt: skip
    assert (answer.code, answer.err) == (0, "")
    assert [path for path in disk_of(outputs) if path.endswith("DONE")]
