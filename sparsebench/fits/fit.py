"""One fit, from a state to a state: network, callbacks, trainer, and what is known afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from torch import nn
from torch.nn import Parameter

from sparsebench.cost.flops import layer_costs
from sparsebench.cost.ledger import Ledger
from sparsebench.cost.speed import peak_memory_mb
from sparsebench.engine import Classifier, Sparsity
from sparsebench.engine.callbacks.averaging import Averaging, WeightAveraging
from sparsebench.engine.callbacks.checkpoint import Continuation
from sparsebench.engine.callbacks.monitors import GradientFlow, LossGuard, SpeedMonitor
from sparsebench.engine.loggers import close_loggers
from sparsebench.fits.state import State
from sparsebench.methods import Method
from sparsebench.sparse.statistics import collapsed_layers, dead_units, exploration_rate

if TYPE_CHECKING:
    from sparsebench.fits.run import Run


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What a fit is asked for; see ``Run.fit``."""

    name: str
    start: State | None = None
    seed: int | None = None
    method: Method | None = None
    span: tuple[int, int] | None = None
    rate: float | None = None
    average: Averaging | None = None
    budget: Mapping[str, Any] = field(default_factory=dict)


def train(run: Run, fit: Fit) -> State:
    """Train, from the last checkpoint where there is one.

    The schedule has the whole budget for its length, whatever part of it is trained; the method's clock counts the
    steps of this fit.
    """
    total = run.total_steps(**fit.budget)
    first, last = fit.span or (0, total)
    assert 0 <= first <= last <= total, (first, last, total)
    if first == last:
        return fit.start or run.initial()
    net = _network(run, fit.start)
    run.data.order_seed = run.seed if fit.seed is None else fit.seed
    sparsity = Sparsity(
        fit.method or run.method,
        prunable=run.prunable,
        seed=run.seed,
        module="net",
        total_steps=last - first,
        ledger=Ledger(layer_costs(net, torch.zeros(1, *run.data.shape))),
        masks=None if fit.start is None else fit.start.masks,
    )
    module = run.classifier(net, total_steps=last - first)
    module.schedule = _schedule(module, fit, first / total, last / total)
    speed = SpeedMonitor()
    epoch = run.epoch_steps(**fit.budget)
    sampled = WeightAveraging(fit.average, total=last - first, epoch=epoch) if fit.average else None
    callbacks = [sparsity, *run.watch(sparsity), LossGuard(), speed, *([sampled] if sampled else [])]
    trainer = _carry_out(run, fit, module, callbacks, {"max_steps": last - first} if fit.span else {})
    sparsity.finish()
    weights = {key: value.detach() for key, value in module.net.state_dict().items()}
    weights = sampled.weights(weights) if sampled else weights
    return State(
        weights={key: value.cpu() for key, value in weights.items()},
        masks={key: mask.cpu() for key, mask in sparsity.net.masks.items()},
        facts={**_facts(trainer, sparsity, speed), "epochs": _whole(sparsity.step / epoch)},
    )


def _carry_out(
    run: Run, fit: Fit, module: Classifier, callbacks: list[L.Callback], limits: Mapping[str, Any]
) -> L.Trainer:
    """Train the module; the checkpoint comes after whatever has a state to save."""
    checkpoint = run.path(fit.name, "ckpt")
    callbacks += [Continuation(checkpoint, seconds=run.save_seconds, steps=run.save_steps), *_progress(run, fit)]
    with _loggers(run, fit.name) as loggers:
        settings = {"default_root_dir": run.folder, **fit.budget, **limits}
        trainer = run.trainer(callbacks=callbacks, logger=loggers, **settings)
        if run.compile:
            module.net.compile()
        trainer.fit(module, datamodule=run.data, ckpt_path=checkpoint if checkpoint.exists() else None)
    return trainer


def _network(run: Run, start: State | None) -> nn.Module:
    """Build the network; random numbers of the fit depend on the run's seed alone."""
    L.seed_everything(run.seed, verbose=False)
    net = run.network()
    if start is not None:
        net.load_state_dict(dict(start.weights))
    return net


def _progress(run: Run, fit: Fit) -> list[L.Callback]:
    shown = list(run.progress())
    for callback in shown:
        if hasattr(callback, "label") and fit.name != "single":
            callback.label = f"{run.prefix}{fit.name}: "  # type: ignore[attr-defined]
    return shown


def _schedule(module: Classifier, fit: Fit, first: float, last: float) -> Callable[[float], float] | None:
    """Return the factor of the learning rate over this fit: a part of the whole schedule, or one rate throughout."""
    if fit.rate is not None:
        factor = fit.rate / base_rate(module)
        return lambda progress: factor
    whole = module.schedule
    if fit.average is not None:
        whole = fit.average.schedule(whole, base_rate(module))
    if whole is None or (first, last) == (0.0, 1.0):
        return whole
    return lambda progress: whole(first + (last - first) * progress)


def base_rate(module: Classifier) -> float:
    """Return the learning rate that schedules are factors of."""
    return float(module.build_optimizer([Parameter(torch.zeros(1))]).defaults["lr"])


@contextlib.contextmanager
def _loggers(run: Run, name: str) -> Iterator[list[Any]]:
    """Open the loggers of a fit: the run's own where it is the only fit, or else some in a folder of the fit's name."""
    if name == "single":
        yield run.open_loggers()
        return
    folder = run.folder / "stages" / f"{run.prefix}{name}"
    folder.mkdir(parents=True, exist_ok=True)
    loggers = list(run.loggers(folder))
    try:
        yield loggers
    except BaseException:
        close_loggers(loggers, failed=True)
        raise
    close_loggers(loggers)


def _whole(number: float) -> int | float:
    return int(number) if number == int(number) else number


def _facts(trainer: L.Trainer, sparsity: Sparsity, speed: SpeedMonitor) -> dict[str, Any]:
    net, ledger = sparsity.net, sparsity.ledger
    assert ledger is not None
    metrics: Mapping[str, Any] = trainer.callback_metrics
    return {
        "steps": sparsity.step,
        "target_reached": sparsity.target_reached,
        "val_accuracy": float(metrics["val_accuracy"]) if "val_accuracy" in metrics else None,
        "train_loss": float(metrics["train_loss"]) if "train_loss" in metrics else None,
        "train_flops": ledger.train_flops,
        "dense_flops": ledger.dense_flops,
        "executed_flops": ledger.executed_flops,
        "start_flops": ledger.start_flops,
        "mask_change": float(net.change),
        "gradient_flow": _gradient_flow(trainer),
        "exploration_rate": exploration_rate(net),
        "collapsed_layers": collapsed_layers(net),
        "dead_units": sum(dead_units(net).values()),
        "seconds": speed.seconds,
        "images_per_second": speed.stopwatch.images_per_second,
        "peak_memory_mb": peak_memory_mb(trainer.strategy.root_device),
    }


def _gradient_flow(trainer: L.Trainer) -> dict[str, float]:
    callbacks: list[L.Callback] = getattr(trainer, "callbacks", [])
    return next((callback.norms for callback in callbacks if isinstance(callback, GradientFlow)), {})
