"""One fit from state to state: build network, callbacks and trainer, train, and collect the facts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from sparsebench.cost.ledger import Ledger
from sparsebench.cost.speed import peak_memory_mb
from sparsebench.engine import Classifier, Sparsity
from sparsebench.engine.callbacks.averaging import Averaging, WeightAveraging
from sparsebench.engine.callbacks.checkpoint import Continuation
from sparsebench.engine.callbacks.collapse import CollapseGuard
from sparsebench.engine.callbacks.cuda_graphs import CudaGraphs
from sparsebench.engine.callbacks.monitors import GradientFlow, LossGuard, SparsityMonitor, SpeedMonitor
from sparsebench.engine.protocols import Labelled
from sparsebench.fits.length import epochs_of
from sparsebench.fits.setup import Setup, base_rate
from sparsebench.fits.state import State
from sparsebench.methods import Method
from sparsebench.runs.atomic import is_whole_archive
from sparsebench.sparse.statistics import collapsed_layers, dead_units, explored


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The arguments of a fit; see ``Run.fit`` for its fields."""

    start: State | None = None
    seed: int | None = None
    method: Method | None = None
    span: tuple[int, int] | None = None
    rate: float | None = None
    average: Averaging | None = None
    budget: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Site:
    """The place of a fit's files and the label of its progress lines.

    Args:
        folder: Lightning's default folder.
        checkpoint: the file from which the fit continues, and which it keeps up to date.
        label: text before progress lines; empty if the run has no other fit.
        loggers: opens the fit's loggers, and closes them if they belong to the fit.
    """

    folder: Path
    checkpoint: Path
    label: str
    loggers: Callable[[], AbstractContextManager[list[Any]]]


def train(setup: Setup, fit: Fit, site: Site) -> State:
    """Train a fit, continuing from its last checkpoint if there is one.

    The schedule spans the whole budget, even if only a part of it is trained; the method's clock counts the
    steps of this fit.
    """
    total, epoch = setup.total_steps(**fit.budget), setup.epoch_steps(**fit.budget)
    first, last = fit.span or (0, total)
    assert 0 <= first <= last <= total, (first, last, total)
    if first == last:
        return fit.start or setup.initial()
    net = _network(setup, fit.start)
    setup.data.order_seed = setup.seed if fit.seed is None else fit.seed
    sparsity = _sparsity(setup, fit, net, steps=last - first)
    module = setup.classifier(net, total_steps=last - first)
    module.schedule = _schedule(module, fit, first / total, last / total)
    speed = SpeedMonitor()
    sampled = WeightAveraging(fit.average, total=last - first, epoch=epoch) if fit.average else None
    callbacks = [sparsity, *_monitors(setup, sparsity), LossGuard(), speed, *([sampled] if sampled else [])]
    trainer = _carry_out(setup, fit, site, module, callbacks, {"max_steps": last - first} if fit.span else {})
    sparsity.finish()
    weights = {key: value.detach() for key, value in module.net.state_dict().items()}
    weights = sampled.weights(weights) if sampled else weights
    return State(
        weights={key: value.cpu() for key, value in weights.items()},
        masks={key: mask.cpu() for key, mask in sparsity.net.masks.items()},
        facts={**_facts(trainer, sparsity, speed), "epochs": epochs_of(sparsity.step, epoch)},
    )


def _carry_out(
    setup: Setup, fit: Fit, site: Site, module: Classifier, callbacks: list[L.Callback], limits: Mapping[str, Any]
) -> L.Trainer:
    """Train the module; the checkpoint callback comes last, after all callbacks with a state to save."""
    checkpoint = site.checkpoint
    continuation = Continuation(checkpoint, seconds=setup.save_seconds, steps=setup.save_steps)
    callbacks += [continuation, *_progress(setup, site.label)]
    callbacks += [CudaGraphs(setup.cuda_graphs)] if setup.cuda_graphs else []
    with site.loggers() as loggers:
        settings = {"default_root_dir": site.folder, **fit.budget, **limits}
        trainer = setup.trainer(callbacks=callbacks, logger=loggers, **settings)
        if setup.compile:
            module.net.compile()
        trainer.fit(module, datamodule=setup.data, ckpt_path=checkpoint if _is_usable(checkpoint) else None)
    return trainer


def _is_usable(checkpoint: Path) -> bool:
    """Return True if there is a checkpoint to continue from; report a damaged one and move it away."""
    if not checkpoint.exists():
        return False
    if is_whole_archive(checkpoint):
        return True
    if rank_zero_only.rank == 0:
        print(f"sparsebench: {checkpoint} is damaged, as after a power cut: the fit starts again", flush=True)
        checkpoint.unlink(missing_ok=True)
    return False


def _network(setup: Setup, start: State | None) -> nn.Module:
    """Build the network; the fit's random numbers depend only on the setup's seed."""
    L.seed_everything(setup.seed, verbose=False)
    net = setup.network()
    if start is not None:
        net.load_state_dict(dict(start.weights))
    return net


def _sparsity(setup: Setup, fit: Fit, net: nn.Module, *, steps: int) -> Sparsity:
    return Sparsity(
        fit.method or setup.method,
        prunable=setup.prunable,
        seed=setup.seed,
        module="net",
        total_steps=steps,
        ledger=Ledger(setup.costs(net)),
        masks=_first_masks(setup) if fit.start is None else fit.start.masks,
        execution=setup.execution if fit.method is None else None,
    )


def _first_masks(setup: Setup) -> Mapping[str, Tensor] | None:
    return None if setup.first_masks is None else setup.first_masks()


def _monitors(setup: Setup, sparsity: Sparsity) -> list[L.Callback]:
    """Return the read-only callbacks of a fit."""
    return [
        SparsityMonitor(sparsity, per_layer=setup.per_layer),
        GradientFlow(sparsity, log=setup.per_layer),
        CollapseGuard(sparsity, action=setup.on_collapse),
    ]


def _progress(setup: Setup, label: str) -> list[L.Callback]:
    shown = list(setup.progress())
    for callback in shown:
        if label and isinstance(callback, Labelled):
            callback.label = f"{label}: "
    return shown


def _schedule(module: Classifier, fit: Fit, first: float, last: float) -> Callable[[float], float] | None:
    """Return the learning-rate factor over this fit: a part of the whole schedule, or a constant."""
    if fit.rate is not None:
        factor = fit.rate / base_rate(module)
        return lambda progress: factor
    whole = module.schedule
    if fit.average is not None:
        whole = fit.average.schedule(whole, base_rate(module))
    if whole is None or (first, last) == (0.0, 1.0):
        return whole
    return lambda progress: whole(first + (last - first) * progress)


def _facts(trainer: L.Trainer, sparsity: Sparsity, speed: SpeedMonitor) -> dict[str, Any]:
    net, ledger = sparsity.net, sparsity.ledger
    assert ledger is not None
    metrics: Mapping[str, Any] = trainer.callback_metrics
    return {
        "steps": sparsity.step,
        "target_reached": sparsity.target_reached,
        "val_accuracy": float(metrics["val_accuracy"]) if "val_accuracy" in metrics else None,
        "train_loss": float(metrics["train_loss"]) if "train_loss" in metrics else None,
        **ledger.figures,
        "mask_change": float(net.change),
        "gradient_flow": _gradient_flow(trainer),
        "explored": explored(net),
        "collapsed_layers": collapsed_layers(net),
        "dead_units": sum(dead_units(net).values()),
        "seconds": speed.seconds,
        "images_per_second": speed.stopwatch.images_per_second,
        "peak_memory_mb": peak_memory_mb(trainer.strategy.root_device),
        **({"backends": net.runtime.backend.chosen} if net.runtime is not None and net.runtime.backend.chosen else {}),
    }


def _gradient_flow(trainer: L.Trainer) -> dict[str, float]:
    callbacks: list[L.Callback] = getattr(trainer, "callbacks", [])
    return next((callback.norms for callback in callbacks if isinstance(callback, GradientFlow)), {})
