"""The presets of the iterative recipes: their plans can be carried out, and cost what the reference says."""

import pytest
from reference.recipe_cost import cost

from sparsebench.app.config.compose import compose_config
from sparsebench.app.config.tree import conf_dir, options
from sparsebench.recipes.schedule import rewind_step, schedule_densities, switch_cycle

PRESETS = [name for name in options("experiment") if name.split("/")[0] in ("swamp_2024", "imp")]


def planned(name):
    config = compose_config([f"experiment={name}"])
    recipe, density = config["recipe"], config["method"]["density"]
    densities = schedule_densities(
        density, share=recipe["share"], cycles=recipe["cycles"], hit_target=recipe["hit_target"]
    )
    return config, densities


@pytest.mark.parametrize("name", PRESETS)
def test_plans_of_presets_reach_their_sparsity(name):
    config, densities = planned(name)
    assert config["choices"]["method"] == "given"
    assert config["choices"]["distribution"] == "global"
    assert densities[-1] == pytest.approx(config["method"]["density"], rel=1e-4)
    assert rewind_step(config["recipe"]["rewind_to"], 48_000) < 48_000
    switch_cycle(config["recipe"].get("switch", 0), len(densities) - 1)


def test_there_are_the_presets_of_the_paper_and_of_its_baseline():
    assert PRESETS == [
        "imp/cifar10_resnet20", "imp/imagenet_resnet50", "swamp_2024/cifar100_vgg19", "swamp_2024/cifar10_wrn28_2",
        "swamp_2024/imagenet_resnet50", "swamp_2024/tiny_imagenet_resnet18",
    ]  # fmt: skip


def test_imagenet_pruning_costs_1483_epochs_over_19_cycles():
    config, densities = planned("imp/imagenet_resnet50")
    steps = config["trainer"]["max_steps"]
    ticket = rewind_step(config["recipe"]["rewind_to"], steps)
    assert (steps, ticket, len(densities)) == (48_000, 16_000, 19)
    epochs = cost(densities, steps=steps, ticket=ticket).total * config["dataset"]["batch_size"] / 1_281_167
    assert epochs == pytest.approx(1483, abs=0.51)


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("swamp")])
def test_every_value_of_a_reconstruction_says_where_it_comes_from(name):
    text = (conf_dir() / "experiment" / f"{name}.yaml").read_text()
    assert "Reconstruction" in text
    body = text.partition("name: swamp_2024\n")[2].splitlines()
    values = [line for line in body if not line.strip().endswith(":") and "max_epochs: null" not in line]
    unsourced = [line for line in values if "[" not in line and "descends" not in line]
    assert not unsourced
