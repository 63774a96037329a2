"""Build objects from a frozen configuration: the only caller of ``hydra.utils.instantiate``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import lightning as L
import torch
from hydra.errors import HydraException
from hydra.utils import get_object, instantiate
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from sparsebench.engine import Classifier
from sparsebench.engine.callbacks.progress import progress_callbacks
from sparsebench.engine.classifier import Groups
from sparsebench.engine.lightly import Unprofiled
from sparsebench.engine.loggers import build_loggers
from sparsebench.execution.backends import Execution
from sparsebench.fits import Run, Setup, State
from sparsebench.fits.checkpoint_file import masks_in, start_state, zeros_of
from sparsebench.optim import regularized_groups
from sparsebench.runs.identity import label
from sparsebench.runs.messages import did_you_mean
from sparsebench.sparse import Prunable

# Keys of the trainer group that are ours; all others are Lightning's.
_OURS = ("compile", "channels_last", "label_smoothing", "decay_norm_and_bias", "save_seconds", "save_steps")


def build(config: Mapping[str, Any]) -> Any:
    """Instantiate one part of the configuration; errors appear as the constructor raised them."""
    try:
        target = get_object(config["_target_"])
        check_words(target, config)
        check_keywords(config["_target_"], target, config)
        return instantiate(dict(config), _convert_="all")
    except HydraException as error:
        if isinstance(error.__cause__, ValueError | FileNotFoundError):
            raise error.__cause__ from None
        target = config.get("_target_", "?")
        raise ValueError(f"{target} cannot be built: {_last_line(error.__cause__ or error)}") from error


def check_words(target: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raise an error for strings where the signature expects a bool or a number: any string would be true.

    Raises:
        ValueError: an option is wrong; the message names the first.
    """
    try:
        hints = get_type_hints(target.__init__ if isinstance(target, type) and not is_dataclass(target) else target)
    except (NameError, TypeError):  # annotations with names that exist only for type checkers, or no annotations
        return
    for key, value in options.items():
        hint = hints.get(key)
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if bool in kinds and all(kind in (bool, NoneType) for kind in kinds) and type(value) not in kinds:
            raise ValueError(f"{key}={value!r} must be true or false")
        plain = all(isinstance(kind, type) and kind is not str for kind in kinds)
        if isinstance(value, str) and plain and (int in kinds or float in kinds):
            raise ValueError(f"{key}={value!r} must be a number")


def check_keywords(name: str, target: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raise an error for unknown options of a callable, which a partial would reject only when called.

    Raises:
        ValueError: an option is unknown; the message names the first, and the known ones.
    """
    taken = _keywords(target)
    if taken is None:
        return
    for key in options:
        if key not in taken and not (key.startswith("_") and key.endswith("_")):
            hint = did_you_mean(key, taken) or f"; it takes {', '.join(sorted(taken))}"
            raise ValueError(f"{name} does not take {key!r}{hint}; leave a key out with ~GROUP.{key}")


def _keywords(target: Callable[..., Any]) -> set[str] | None:
    """Return the keywords of a callable, including its bases' if it passes on ``**keywords``; None for any."""
    found: set[str] = set()
    makers = (
        [vars(kind)["__init__"] for kind in target.__mro__ if "__init__" in vars(kind)]
        if isinstance(target, type)
        else [target]
    )
    for maker in makers:
        try:
            parameters = signature(maker).parameters.values()
        except (TypeError, ValueError):
            return None
        found |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} - {"self"}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return found
    return None


def _last_line(error: BaseException) -> str:
    """Return the error message from Hydra's exception: Hydra puts the cause last."""
    return [line for line in str(error).splitlines() if line.strip()][-1]


def build_recipe(config: Mapping[str, Any]) -> Callable[[Run], State]:
    """Build the recipe: run -> final state.

    Raises:
        ValueError: it prunes a trained network, and there is none.
    """
    trained = config.get("start_from") or config["model"].get("pretrained")
    if config["recipe"].get("train") is False and not trained:
        raise ValueError(
            f"recipe={config['choices']['recipe']} prunes a trained network, and start_from names none: give "
            f"start_from=RUN or a file, model.pretrained=true for one of timm, or recipe.train=true to train it first"
        )
    return build(config["recipe"])


def build_data(config: Mapping[str, Any]) -> Any:
    """Build the data module: one seed for the validation split, one for the order."""
    return build(config["dataset"])(split_seed=config["seed"], order_seed=config["seed"])


def build_run(config: Mapping[str, Any], folder: Path, *, shared: bool = False) -> Run:
    """Build the run of a folder without training; ``shared`` if several processes work on it."""
    return Run.at(folder, build_setup(config), shared=shared)


def build_setup(config: Mapping[str, Any]) -> Setup:
    """Build the parts of every fit of a run."""
    trainer: dict[str, Any] = dict(config["trainer"])
    ours = {key: trainer.pop(key) for key in _OURS}
    for target in (Classifier, Setup):
        check_words(target, ours)
    graphs = _cuda_graphs(trainer.pop("cuda_graphs", False), trainer["accelerator"], compiles=ours["compile"])
    data = build_data(config)
    prunable = build(config["prunable"])
    return Setup(
        network=partial(started_network, config, data),
        data=data,
        classifier=partial(
            Classifier,
            classes=data.classes,
            optimizer=build(config["optimizer"]),
            schedule=build(config["schedule"]),
            weight_decay=config["optimizer"].get("weight_decay", 0.0),
            decay_norm_and_bias=ours["decay_norm_and_bias"],
            groups=_groups(config["optimizer"], prunable, ours["decay_norm_and_bias"]),
            label_smoothing=ours["label_smoothing"],
            channels_last=ours["channels_last"],
        ),
        method=build(config["method"]),
        execution=_execution(config),
        first_masks=partial(_first_masks, config, data, prunable) if config.get("masks_from") else None,
        trainer=partial(_trainer, **trainer),
        prunable=prunable,
        loggers=partial(build_loggers, settings=config["logger"], config=config, label=label(config)),
        progress=partial(progress_callbacks, config["progress"]),
        seed=config["seed"],
        compile=ours["compile"],
        cuda_graphs=graphs,
        per_layer=config["monitor"]["per_layer"],
        on_collapse=config["on_collapse"],
        save_seconds=ours["save_seconds"],
        save_steps=ours["save_steps"],
    )


def _cuda_graphs(wanted: Any, accelerator: str, *, compiles: bool) -> Any:
    if wanted != "auto" and not isinstance(wanted, bool):
        raise ValueError(f"trainer.cuda_graphs={wanted} is unknown: choose true, false or auto")
    if wanted is True and (accelerator == "cpu" or not torch.cuda.is_available()):
        raise ValueError("trainer.cuda_graphs=true needs a GPU: choose auto or false on processors")
    if wanted and compiles:
        raise ValueError("trainer.cuda_graphs and trainer.compile each record the network: choose one of them")
    return wanted


def started_network(config: Mapping[str, Any], data: Any) -> nn.Module:
    """Build the network, with the weights of ``start_from`` if set."""
    net = build_network(config, data)
    if config.get("start_from"):
        net.load_state_dict(start_state(Path(config["start_from"]), net)[0])
    return net


def _first_masks(config: Mapping[str, Any], data: Any, prunable: Prunable) -> Mapping[str, Tensor]:
    """Return the masks of ``masks_from``, which ``method=given`` keeps."""
    parameters = prunable.select(started_network(config, data))
    place = config["masks_from"]
    return zeros_of(parameters) if place == "zeros" else masks_in(Path(place), parameters)


def build_network(config: Mapping[str, Any], data: Any) -> nn.Module:
    """Build the untrained network for the classes and the shape of the data."""
    return _network(build(config["model"]), config["model"], data)


def _network(builder: Callable[..., nn.Module], settings: Mapping[str, Any], data: Any) -> nn.Module:
    """Build the network for the classes and the shape of the data.

    Raises:
        ValueError: the model does not support them.
    """
    try:
        return builder(classes=data.classes, shape=data.shape)
    except (TypeError, AssertionError, RuntimeError) as error:
        name = settings.get("name") or settings["_target_"]
        raise ValueError(
            f"model {name} cannot be built for {data.classes} classes and images of shape {tuple(data.shape)}: "
            f"{' '.join(str(error).split())}; a model is called with the keywords classes and shape"
        ) from error


def _groups(optimizer: Mapping[str, Any], prunable: Prunable, decay_norm_and_bias: bool) -> Groups | None:
    """Apply an optimizer's regulariser to the weights that may be sparse, and to no others."""
    if "regularizer" not in optimizer:
        return None
    options = {key: optimizer[key] for key in ("regularizer", "weight_decay")}
    return lambda net: regularized_groups(net, prunable.select(net), **options, decay_norm_and_bias=decay_norm_and_bias)


def _execution(config: Mapping[str, Any]) -> Execution | None:
    """Return the requested back end, unless the method's own key has already used it."""
    name = None if "execution" in config["method"] else config.get("execution")
    if name is None or "." not in name:
        return name
    try:
        return get_object(name)
    except Exception as error:
        raise ValueError(f"execution={name} cannot be imported: {_last_line(error)}") from error


def _trainer(**arguments: Any) -> L.Trainer:
    """Build a Trainer without its own data order, checkpoints and progress."""
    shows = any("ProgressBar" in type(callback).__name__ for callback in arguments["callbacks"])
    fixed = {
        "enable_progress_bar": shows,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "log_every_n_steps": 1_000_000_000,
        "profiler": Unprofiled(),
    }
    if arguments["sync_batchnorm"] == "auto":
        arguments["sync_batchnorm"] = torch.cuda.is_available() and arguments["accelerator"] != "cpu"
    on_cpu = arguments["accelerator"] == "cpu" or not torch.cuda.is_available()
    if str(arguments["precision"]) in ("16", "16-mixed") and on_cpu:  # Lightning would use bf16 with only a remark
        raise ValueError("trainer.precision=16-mixed needs a GPU: choose bf16-mixed or 32-true on a CPU")
    try:
        return L.Trainer(**{**fixed, **arguments})
    except (TypeError, MisconfigurationException, ModuleNotFoundError, RuntimeError) as error:
        said = " ".join(str(error).split()).removeprefix("Trainer.__init__() ")
        raise ValueError(f"the trainer cannot be built: {said}") from error
