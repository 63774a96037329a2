"""Trainings under the published protocols, several at once on one device, until the time is over."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from host import GRACE
from parts import Part

SIDE_BY_SIDE = 4
"""Largest number of parallel trainings on one GPU, since a step of a CIFAR network leaves most of it idle."""
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


LOOK = 2.0
"""Seconds between two looks at the heartbeats of trainings."""
SETTLE = 15.0
"""Seconds over which a pace is measured, after each change of the number of running trainings."""


@dataclass
class Training:
    """A running training: its process, and its steps when the measurement of its pace began."""

    process: Any
    since: tuple[float, int] | None = None

    def pace(self, now: float, taken: int) -> float | None:
        """Return steps a second since measuring began, or None before there is something to tell."""
        if self.since is None:
            self.since = (now, taken)
        began, first = self.since
        return (taken - first) / (now - began) if now - began >= SETTLE and taken > first else None


@dataclass
class Queue:
    """Waiting and running trainings of a part, the most important first.

    As many run at once as will end within the part: if one of them would not, the least important one stops. It keeps
    its checkpoint, and continues when another has ended.
    """

    part: Part
    waiting: dict[str, list[str]]
    width: int
    working: dict[str, Training] = field(default_factory=dict)
    leaving: set[str] = field(default_factory=set)
    failures: int = 0
    _looked: float = 0.0
    _begun: dict[str, list[str]] = field(default_factory=dict)

    def run(self) -> None:
        """Train until everything is done, or the time is over."""
        order = list(self.waiting)
        while (self.waiting or self.working) and self.part.left > 0:
            for name in [n for n, training in self.working.items() if training.process.poll() is not None]:
                self._ended(name)
            while self.waiting and len(self.working) < self.width and self.part.left > 0:
                name = min(self.waiting, key=order.index)
                self.working[name] = Training(_train(self.part, name, self.waiting[name]))
                self._measure_anew()
                self._begun[name] = self.waiting.pop(name)
            if self.part.host.now() - self._looked >= LOOK:
                self._make_room()
                self._looked = self.part.host.now()
            self.part.host.sleep(0.2)
        self._stop_all()

    def _make_room(self) -> None:
        """Ask the least wanted training to stop, if another could then reach its end in time."""
        host, names = self.part.host, [name for name in self.working if name not in self.leaving]
        if len(names) < 2 or self.leaving:
            return
        for name in names:
            counted = host.steps(self._folder(name))
            pace = None if counted is None else self.working[name].pace(host.now(), counted[0])
            if counted is None or pace is None:
                return  # not all are measured
            if (counted[1] - counted[0]) / pace > self.part.left:
                last = names[-1]
                print(f"   {last}: makes room, {name} would not end in time", flush=True)
                host.ask_to_stop(self._folder(last), "gpu_check makes room for another training")
                self.leaving.add(last)
                self.width = len(names) - 1
                return

    def _measure_anew(self) -> None:
        for training in self.working.values():
            training.since = None

    def _ended(self, name: str, *, out_of_time: bool = False) -> None:
        training = self.working.pop(name)
        self._measure_anew()
        made_room = name in self.leaving
        self.leaving.discard(name)
        if made_room and not out_of_time and not self.part.host.result(self._folder(name)):
            self.waiting[name] = self._begun[name]
            return
        state = _note(self.part, name, training.process.poll(), stopped=out_of_time or made_room)
        self.failures += state == "failed"

    def _stop_all(self) -> None:
        """Ask running trainings to stop, and end them after a few seconds; write a row for each that has begun."""
        host = self.part.host
        for name in self.working:
            host.ask_to_stop(self._folder(name), "the time of gpu_check is over")
        processes = [training.process for training in self.working.values()]
        host.wait(processes, host.now() + GRACE)
        host.end(processes)
        for name in list(self.working):
            self._ended(name, out_of_time=True)
        for name in [name for name in self.waiting if name in self._begun]:
            _note(self.part, name, None, stopped=True)

    def _folder(self, name: str) -> Path:
        return self.part.out / "runs" / name


def train_queue(part: Part) -> int:
    """Train the queued runs, as many at once as will end in time.

    Returns:
        The number of trainings that failed; a stopped training is not a failure.
    """
    waiting = dict(DRY[part.name] if part.dry else {"dense94": DENSE94, "protocol": QUEUE}[part.name])
    part.names(waiting)
    queue = Queue(part, waiting, 1 if part.dry or part.name == "dense94" else SIDE_BY_SIDE)
    queue.run()
    return queue.failures


def _train(part: Part, name: str, overrides: list[str]) -> Any:
    folder = part.out / "runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    data = os.environ.get("SPARSEBENCH_DATA", "data")
    threads = {} if part.dry else {"OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-m", "sparsebench", "train", *overrides, f"run_dir={folder}", f"data_root={data}"]
    return part.start(f"run-{name}", command, **threads)


def _note(part: Part, name: str, code: int | None, *, stopped: bool) -> str:
    folder = part.out / "runs" / name
    result, counted = part.host.result(folder), part.host.steps(folder)
    state = "done" if result else "out of time" if stopped else "failed"
    keys = ("test_accuracy", "seconds", "images_per_second", "sparsity", "steps")
    facts: dict[str, Any] = {key: result[key] for key in keys if key in result}
    if not result and counted is not None:
        facts |= {"steps": counted[0], "of_steps": counted[1]}
    if part.name == "dense94" and result:
        facts["reaches_94"] = float(result.get("test_accuracy", 0)) >= 0.94
    part.row(name, status=state, code=code, **facts)
    print(f"   {name}: {state} {facts or ''}", flush=True)
    return state
