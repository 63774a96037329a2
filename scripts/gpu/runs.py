"""Trainings under the published protocols, several at once on one device, until the time is over."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from parts import GRACE, Part, end

from sparsebench.runs.folder import RunFolder

SIDE_BY_SIDE = 4
"""Number of parallel trainings on one GPU, since a step of a CIFAR network leaves most of it idle."""
FAST = ["trainer=gpu", "progress=lines", "logger=csv"]
PUBLISHED = ["trainer.max_epochs=160", "dataset.batch_size=128", "optimizer.lr=0.1", "optimizer.weight_decay=5e-4"]
"""Protocol of the comparisons of dynamic methods: 160 epochs of batches of 128."""


def _cell(method: str, model: str, dataset: str, sparsity: float | None = None, *more: str) -> list[str]:
    zeros = [] if sparsity is None else [f"sparsity={sparsity}"]
    return [f"method={method}", f"model={model}", f"dataset={dataset}", *zeros, *PUBLISHED, *FAST, *more]


VGG, RESNET = ("vgg19", "cifar100"), ("resnet50", "cifar10")
QUEUE = {
    "vgg19-dense": _cell("dense", *VGG),
    "vgg19-dst_ee-95": _cell("dst_ee", *VGG, 0.95),
    "vgg19-rigl-95": _cell("rigl", *VGG, 0.95),
    "vgg19-set-95": _cell("set", *VGG, 0.95),
    "resnet18-ml_linbreg": ["experiment=ml_linbreg_2026/cifar10_resnet18", *FAST],
    "vgg19-vr_pge": ["experiment=vr_pge_2021/cifar10_vgg19", *FAST],
    "vgg19-dst_ee-98": _cell("dst_ee", *VGG, 0.98),
    "vgg19-rigl-98": _cell("rigl", *VGG, 0.98),
    "vgg19-set-98": _cell("set", *VGG, 0.98),
    "resnet50-dense": _cell("dense", *RESNET),
    **{f"resnet50-{m}-{s}": _cell(m, *RESNET, s / 100) for s in (95, 98) for m in ("dst_ee", "rigl", "set")},
}
"""Name -> overrides, the most important first; unfinished runs keep their checkpoints and continue next time."""
RATE = ["optimizer.lr=0.4", "schedule=one_cycle", "dataset.batch_size=512", "trainer.label_smoothing=0.1"]
DENSE94 = {
    f"resnet18-{epochs}-epochs": [
        "method=dense", "model=resnet18", "dataset=cifar10", "dataset.val_share=0", *RATE,
        f"trainer.max_epochs={epochs}", *FAST,
    ]
    for epochs in (12, 18)
}  # fmt: skip
"""Dense trainings of CIFAR-10 whose test accuracy should reach 94 %, one after the other."""
TINY = ["model=mlp", "model.hidden=[16]", "dataset=digits", "dataset.limit=64", "trainer.max_epochs=1",
        "trainer.accelerator=cpu", "progress=none", "logger=csv"]  # fmt: skip
DRY = {
    "dense94": {"digits-dense": ["method=dense", *TINY]},
    "protocol": {"digits-rigl": ["method=rigl", "every=2", *TINY]},
}


def train_queue(part: Part) -> int:
    """Train the queued runs, as many at once as fit; ask the runs still active near the end to stop.

    Returns:
        The number of trainings that failed; a stopped training is not a failure.
    """
    queue = dict(DRY[part.name] if part.dry else {"dense94": DENSE94, "protocol": QUEUE}[part.name])
    width = 1 if part.dry or part.name == "dense94" else SIDE_BY_SIDE
    running: dict[str, Any] = {}
    states: dict[str, str] = {}
    while (queue or running) and part.left > GRACE:
        while queue and len(running) < width:
            name = next(iter(queue))
            running[name] = _train(part, name, queue.pop(name))
        for name in [name for name, process in running.items() if process.poll() is not None]:
            states[name] = _ended(part, name, running.pop(name).returncode)
        time.sleep(0.2)
    for name in running:
        RunFolder(part.out / "runs" / name).ask_to_stop("the time of gpu_check is over")
    for name, process in running.items():
        end_within(process, GRACE)
        states[name] = _ended(part, name, process.returncode, out_of_time=True)
    for name in queue:
        part.row(name=name, status="not begun")
    return sum(state == "failed" for state in states.values())


def end_within(process: Any, seconds: float) -> None:
    """Give a training time to stop by itself, then kill it."""
    until = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    end(process)


def _train(part: Part, name: str, overrides: list[str]) -> Any:
    folder = part.out / "runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    data = os.environ.get("SPARSEBENCH_DATA", "data")
    threads = {} if part.dry else {"OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-m", "sparsebench", "train", *overrides, f"run_dir={folder}", f"data_root={data}"]
    return part.start(f"run-{name}", command, **threads)


def _ended(part: Part, name: str, code: int | None, *, out_of_time: bool = False) -> str:
    folder = RunFolder(part.out / "runs" / name)
    result: dict[str, Any] = dict(folder.result()) if folder.is_finished() else {}
    state = "done" if result else "out of time" if out_of_time else "failed"
    keys = ("test_accuracy", "seconds", "images_per_second", "sparsity", "steps")
    facts = {key: result[key] for key in keys if key in result}
    if part.name == "dense94" and result:
        facts["reaches_94"] = float(result.get("test_accuracy", 0)) >= 0.94
    part.row(name=name, status=state, code=code, **facts)
    print(f"   {name}: {state} {facts or ''}", flush=True)
    return state
