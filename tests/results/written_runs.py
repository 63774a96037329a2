"""Write folders that look like those of runs."""

import json
from pathlib import Path

import yaml


def result_of(**changes):
    fixed = {
        "method": "rigl",
        "model": "resnet50",
        "dataset": "imagenet",
        "recipe": "single",
        "seed": 0,
        "epochs": 100,
        "sparsity_target": 0.9,
        "test_accuracy": 0.75,
        "sparsity": 0.9,
        "train_flops_ratio": 0.25,
        "test_flops_ratio": 0.24,
        "executed_flops_ratio": 1.0,
        "exploration_rate": 0.4,
        "images_per_second": 1000.0,
        "seconds": 60.0,
        "config_hash": "00000000",
        "versions": {"sparsebench": "0.1.0", "torch": "2.15.0"},
        "hardware": {"cpu": "C", "threads": 1, "gpu": None},
    }
    return {**fixed, **changes}


def config_of(**changes):
    fixed = {
        "seed": 0,
        "sparsity": 0.9,
        "name": "runs",
        "model": {"name": "resnet50"},
        "dataset": {"batch_size": 128},
        "optimizer": {"lr": 0.1},
        "recipe": {"_target_": "single"},
        "trainer": {"max_epochs": 100},
        "method": {"density": 0.1},
        "choices": {"method": "rigl", "distribution": "erk", "recipe": "single"},
    }
    return {**fixed, **changes}


def write_run(folder: Path, *, done=True, config=None, **changes) -> Path:
    """Write one; returns its folder."""
    folder.mkdir(parents=True)
    result = result_of(**changes)
    (folder / "result.json").write_text(json.dumps(result))
    if config is not False:
        written = {**config_of(), **(config or {}), "seed": result["seed"]}
        (folder / "config.yaml").write_text(yaml.safe_dump(written))
    if done:
        (folder / "DONE").touch()
    return folder
