"""Every YAML of every group composes, and every preset runs."""

import pytest
import yaml
from hydra.errors import HydraException
from support import disk_of

from sparsebench.app.config.check import check_config
from sparsebench.app.config.compose import compose_config
from sparsebench.app.config.tree import conf_dir, groups, options

CHOICES = [(group, option) for group in groups() for option in options(group)]
EXPERIMENTS = list(options("experiment"))


@pytest.mark.parametrize(("group", "option"), CHOICES, ids=lambda value: value)
def test_every_yaml_composes(group, option):
    raw = yaml.safe_load((conf_dir() / group / f"{option}.yaml").read_text()) or {}
    overrides = [f"{group}={option}"]
    overrides += [f"{group}.{key}=given" for key, value in raw.items() if value == "???"]
    config = compose_config(overrides)
    check_config(config)
    if group == "method" and "_target_" in raw:
        assert config["method"]["_target_"] == raw["_target_"]


@pytest.mark.parametrize(("group", "option"), CHOICES, ids=lambda value: value)
def test_every_yaml_begins_with_what_it_is(group, option):
    assert len(options(group)[option]) >= 10, "the first comment is shown by `sparsebench list`"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_preset_that_needs_no_data_runs_two_steps(cli, outputs, experiment):
    config = compose_config([f"experiment={experiment}"])
    if config["choices"]["dataset"] not in ("digits", "synthetic"):
        pytest.skip(f"{experiment} needs the data of {config['choices']['dataset']}")
    answer = cli(
        "train", f"experiment={experiment}", "debug=smoke", "trainer.accelerator=cpu", "progress=none"
    )  # fmt: skip
    assert (answer.code, answer.err) == (0, "")
    assert [name for name in disk_of(outputs) if name.endswith("DONE")]


def test_unknown_keys_are_refused():
    with pytest.raises(HydraException):
        compose_config(["trainer.max_epoch=3"])
