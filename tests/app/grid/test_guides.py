"""What the guides show works: commands compose, and the sweep of Weights & Biases calls the command line rightly."""

import re
import shlex

import pytest
import yaml
from support import REPOSITORY

from sparsebench.app.config.check import check_config, check_overrides, normalise
from sparsebench.app.config.compose import compose_config

GUIDES = REPOSITORY / "docs" / "guides"


def test_the_sweep_of_weights_and_biases_composes():
    sweep = yaml.safe_load((GUIDES / "wandb_sweep.yaml").read_text())
    ends = {
        name: given.get("values", [given.get("min"), given.get("max")]) for name, given in sweep["parameters"].items()
    }
    head, verb, *rest = sweep["command"][1:]
    assert (head, verb, rest[-1]) == ("${program}", "train", "${args_no_hyphens}")
    for side in (0, -1):
        arguments = [*rest[:-1], *(f"{name}={values[side]}" for name, values in ends.items())]
        check_overrides(arguments)
        config = compose_config(arguments)
        check_config(config)
        assert config["optimizer"]["lr"] == ends["optimizer.lr"][side]
    assert sweep["metric"]["name"] == "val_accuracy"


ELSEWHERE = ("hydra", "+hydra", "start_from=", "masks_from=")
"""Overrides that need a launcher, or the file of a reader."""


def commands():
    for guide in sorted(GUIDES.glob("*.md")):
        for block in re.findall(r"```bash\n(.*?)```", guide.read_text(), re.S):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("sparsebench train"):
                    yield pytest.param(shlex.split(line.split("   #")[0])[2:], id=f"{guide.stem}: {line[18:60]}")


@pytest.mark.parametrize("arguments", list(commands()))
def test_commands_of_guides_compose(arguments):
    arguments = normalise(arguments)
    check_overrides(arguments)
    firsts = [
        part.split(",")[0] if "(" not in part else re.sub(r"=.*\((?:\w+,)?([\w.]+).*", r"=\1", part)
        for part in arguments
    ]
    kept = [part for part in firsts if part != "-m" and not part.startswith(ELSEWHERE)]
    check_config(compose_config(kept))


def test_every_launcher_and_sweeper_of_ours_says_what_it_is():
    for path in (REPOSITORY / "conf" / "hydra").rglob("*.yaml"):
        assert path.read_text().startswith("# "), path
        assert "_target_" in (values := yaml.safe_load(path.read_text())) or "defaults" in values
