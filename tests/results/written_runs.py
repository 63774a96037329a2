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
        "inference_flops_ratio": 0.24,
        "executed_flops_ratio": 1.0,
        "explored": 0.4,
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


LAYERS = [
    f"stage{stage}.block{block}.conv{conv}.weight" for stage in (1, 2, 3) for block in (1, 2, 3) for conv in (1, 2)
]


def write_metrics(folder: Path, *, epochs=100, steps=500, accuracy=0.75, layers=LAYERS, sparsity=0.9) -> None:
    """Write a metrics.csv like that of a real run."""
    names = ["sparsity", "val_loss", "val_accuracy", "train_loss", "lr", "explored", "mask_change", "train_flops_ratio"]
    columns = ["step", "epoch", *names, *(f"density/{name}" for name in layers)]
    lines = [",".join(columns), "0,,0" + "," * (len(columns) - 3)]
    for epoch in range(epochs):
        share = 1 - 0.9 ** (1 + 40 * epoch / epochs)
        numbers = [sparsity, 2.3 - 2 * share, accuracy * share, 2.2 - 2.1 * share, 0.1 * (1 - epoch / epochs),
                   1 - sparsity + 0.3 * share, 0.1 * (1 - share), 0.25]  # fmt: skip
        cells = [steps * (epoch + 1) - 1, epoch, *(f"{number:.10g}" for number in numbers)]
        lines.append(",".join(map(str, [*cells, *[f"{1 - sparsity:.10g}"] * len(layers)])))
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")


def write_grid(root: Path, *, count: int, epochs: int = 100) -> None:
    """Write so many finished runs: a grid of methods, sparsities, learning rates and three seeds."""
    methods = ("rigl", "set", "static", "gmp", "dst_ee", "snip")
    for number in range(count):
        seed, cell = number % 3, number // 3
        method, cell = methods[cell % len(methods)], cell // len(methods)
        sparsity, rate = (0.8, 0.9, 0.95, 0.98)[cell % 4], 0.1 / (1 + cell // 4)
        accuracy = (
            0.76 - 0.3 * (sparsity - 0.7) ** 2 + 0.01 * (methods.index(method) % 3) + 0.002 * seed - 0.01 * (cell // 4)
        )
        text = f"{method},resnet50,imagenet,sparsity={sparsity},seed={seed}--{number:08x}"
        folder = write_run(
            root / text, config={"sparsity": sparsity, "optimizer": {"lr": rate}}, seed=seed, method=method,
            sparsity_target=sparsity, sparsity=sparsity, test_accuracy=accuracy, config_hash=f"{number:08x}",
            train_flops_ratio=1.1 - sparsity, steps=epochs * 500, epochs=epochs,
            density_per_layer=dict.fromkeys(LAYERS, 1 - sparsity),
        )  # fmt: skip
        write_metrics(folder, epochs=epochs, accuracy=accuracy, sparsity=sparsity)
