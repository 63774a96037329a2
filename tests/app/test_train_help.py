"""The help page of train: all groups and keys with their comments, at once."""

import subprocess
import sys

import pytest
from support import environment_of

from sparsebench.app.cli.train_help import page
from sparsebench.app.config.compose import compose_config
from sparsebench.app.config.tree import groups, options
from sparsebench.runs.mappings import dotted


def test_every_group_and_option_is_listed():
    text = page([])
    for group in groups():
        assert f"\n  {group} " in text
        for option in options(group):
            assert option.rpartition("/")[2] in text, option


@pytest.mark.parametrize("method", ["rigl", "dst_ee", "ml_linbreg", "gradual_snip", "dense"])
def test_every_key_of_the_chosen_method_is_listed_with_its_value(method):
    text = page([f"method={method}"])
    values = compose_config([f"method={method}"])["method"]
    # what sparsity, distribution= and pattern= decide is set there
    elsewhere = {"density", "distribution", "pattern"}
    for key in dotted({k: v for k, v in values.items() if k not in elsewhere}):
        name, _, nested = key.partition(".")
        if "_target_" not in key and "_partial_" not in key and not nested:
            assert f"method.{name}:" in text, key
    if "drop_fraction" in values:
        assert f"method.drop_fraction: {values['drop_fraction']}" in text


def test_inherited_keys_keep_their_comments():
    assert "rank positive and negative weights apart" in page(["method=rigl"])
    assert "# steps; below 1, a fraction of the budget" in page(["method=dst_ee"])
    assert "${or" not in page(["method=dst_ee"])


def test_options_of_ones_own_are_listed(tmp_path):
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text("# My rule\ndefaults: [set]\nwidth: 3 # of it\n", encoding="utf-8")
    text = page(["--config-dir", str(tmp_path), "method=mine"])
    assert "method=mine: My rule" in text
    assert "method.width: 3" in text
    assert "method.until: 0.75" in text


def test_neither_hydra_nor_torch_is_imported():
    code = """
import sys
from sparsebench.app.main import main
main(["train", "method=set", "--help"])
assert not {"torch", "hydra", "omegaconf", "lightning", "numpy"} & set(sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment_of())
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("usage: sparsebench train")
    assert "method=set: SET" in found.stdout


def test_unknown_options_are_refused(cli):
    answer = cli("train", "method=sett", "--help")
    assert answer.code == 2
    assert "did you mean 'set'" in answer.err
