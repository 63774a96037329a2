"""Whatever is typed: a run, or one line that says what is wrong; never a traceback, never a number that is not one."""

import contextlib
import json
import math
import os
import random
import sys

import pytest
import torch
from support import TINY

from sparsebench.app.config.check import check_config, check_overrides, normalise
from sparsebench.app.config.compose import ADDED, compose_config
from sparsebench.app.config.tree import groups, options
from sparsebench.app.errors import USER_ERRORS
from sparsebench.app.main import main
from sparsebench.runs.identity import identity, label
from sparsebench.runs.mappings import dotted

SLOW = bool(os.environ.get("SPARSEBENCH_SLOW"))
SETS, TRAINED, PER_TEST = (10_000, 300, 500) if SLOW else (300, 10, 100)
ODD = [
    "null", "true", "false", "-1", "0", "1", "2", "7", "0.5", "1.5", "1e2", "1e-3", "1e400", "nan", "inf", "-inf",
    "abc", "''", "' '", "[]", "[1]", "[a,b]", "[1,[2]]", "{}", "{a:1}", "größe", "???", "${seed}", "${nothing}", "a b",
    "0x10",
    "1_000", "9" * 30, "'9'", "a=b", "%41", "~", "..", "a,b", "\\,", "(", "]", "range(3)", "choice(1,2)", "2024-01-01",
]  # fmt: skip
OUTSIDE = ("output_root", "run_dir", "data_root", "cell", "dataset.root", "dataset.download", "dataset.workers",
           "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.accelerator", "recipe.workers",
           "dataset.train_size", "dataset.test_size", "logger.kind", "rerun", "trainer.compile")  # fmt: skip
"""Keys that are not tried with training: they write elsewhere, download, or start processes."""


class Generator:
    """Sets of overrides, by a seed."""

    def __init__(self, seed):
        self.chance = random.Random(seed)
        self.keys = sorted(dotted({k: v for k, v in compose_config([]).items() if k not in ADDED}))
        self.options = {group: sorted(options(group)) for group in groups()}

    def one(self, trained=False):
        chance = self.chance
        if chance.random() < 0.25:
            group = chance.choice(
                [g for g in self.options if not (trained and g in ("model", "dataset", "experiment"))]
            )
            value = chance.choice(self.options[group])
            return f"{group}={value}" if chance.random() < 0.9 else f"{group}={value}x"
        key = chance.choice([k for k in self.keys if not (trained and k.startswith((*OUTSIDE, "model")))])
        kind = chance.random()
        if kind < 0.05:
            return f"~{key}"
        if kind < 0.1:
            key = f"+{key}" if chance.random() < 0.5 else key[:-1]
        return f"{key}={chance.choice(ODD)}"

    def some(self, trained=False):
        return [self.one(trained) for _ in range(self.chance.choice((1, 1, 2, 3)))]


def one_line_of(error):
    """Return what a user would see, as the command line would say it."""
    from sparsebench.app.grid.job import _short

    return _short(error) if not isinstance(error, USER_ERRORS) else str(error)


def composes(overrides):
    """Return True if a set composes, False if it is refused in words; anything else is a fault."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        read = normalise(list(overrides))
        check_overrides(read)
        config = compose_config(read)
        check_config(config)
    except (*USER_ERRORS, HydraException, OmegaConfBaseException) as error:
        if not one_line_of(error).strip():
            raise AssertionError(f"{overrides}: nothing is said") from error
        return False
    except SystemExit:
        return False
    except Exception as error:
        raise AssertionError(f"{overrides}: {type(error).__name__}: {error}") from error
    assert len(identity(config)) == 8
    assert label(config).isascii(), overrides
    assert isinstance(config["seed"], int), overrides
    assert 0 <= config["sparsity"] < 1, overrides
    return True


@pytest.mark.parametrize("part", range(SETS // PER_TEST))
def test_every_set_of_overrides_composes_or_says_why(part):
    generator = Generator(part)
    composed = [composes(generator.some()) for _ in range(PER_TEST)]
    assert sum(composed) > PER_TEST // 20


@pytest.mark.parametrize("seed", range(TRAINED))
def test_every_set_of_overrides_trains_or_says_why(tmp_path, monkeypatch, capsys, seed, recwarn):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPARSEBENCH_DATA", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(sys, "argv", ["sparsebench"])
    overrides = Generator(10_000 + seed).some(trained=True)
    code = 0
    with contextlib.suppress(KeyboardInterrupt):
        try:
            main(["train", *TINY, "debug=smoke", *overrides])
        except SystemExit as stopped:
            code = stopped.code
        except BaseException as error:
            raise AssertionError(f"{overrides}: {type(error).__name__}: {error}") from error
    seen = capsys.readouterr()
    assert code in (0, 2), (overrides, code, seen.err)
    assert "Traceback" not in seen.err, (overrides, seen.err)
    if code == 2:
        assert [line for line in seen.err.splitlines() if line.startswith("sparsebench: error: ")], overrides
        assert not list(tmp_path.rglob("DONE"))
        return
    for path in tmp_path.rglob("result.json"):
        _check_numbers(path, overrides)


def _check_numbers(path, overrides):
    """Numbers of a result must be those of the tensors beside it."""
    result = json.loads(path.read_text(encoding="utf-8"))
    assert all(math.isfinite(value) for value in result.values() if isinstance(value, float)), overrides
    assert 0 <= result["test_accuracy"] <= 1
    assert (path.parent / "DONE").exists()
    weights = torch.load(path.parent / "final.pt", weights_only=True)
    masks = torch.load(path.parent / "masks.pt", weights_only=True)
    active, total = sum(int(m.sum()) for m in masks.values()), sum(m.numel() for m in masks.values())
    if total:
        assert result["sparsity"] == pytest.approx(1 - active / total, abs=1e-9), overrides
        assert all(not weights[name][~mask].any() for name, mask in masks.items() if name in weights), overrides
