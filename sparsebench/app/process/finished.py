"""A finished run, read back: ``sparsebench.load(RUN)``."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sparsebench.results.schema import with_current_names
from sparsebench.runs.files import DONE
from sparsebench.runs.folder import RunFolder

if TYPE_CHECKING:
    from sparsebench.fits import Setup


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A finished run, read back: network, masks, configuration and metrics.

    Attributes:
        folder: folder of the run.
        config: the frozen configuration.
        result: the numbers, under the names of ``docs/reference/result.md``.
        network: the trained network in evaluation mode, on the CPU; for an ensemble, the average of its predictions.
        masks: bool, by parameter name, True where a weight is active; no entry means dense.
        metrics: one mapping for each row of ``metrics.csv``; None for missing values.
    """

    folder: Path
    config: Mapping[str, Any]
    result: Mapping[str, Any]
    network: nn.Module = field(repr=False)
    masks: Mapping[str, Tensor] = field(repr=False)
    metrics: list[dict[str, float | None]] = field(repr=False)

    @cached_property
    def setup(self) -> Setup:
        """The parts that the run was trained with: data, classifier, method, trainer."""
        from sparsebench.app.config.build import build_setup

        return build_setup(self.config)

    @property
    def data(self) -> Any:
        """The data module of the run, with its own split."""
        return self.setup.data


def load(run: str | Path) -> FinishedRun:
    """Read network, masks, configuration and metrics of a finished run.

    Nothing is trained and no images are read. ::

        run = sparsebench.load("outputs/runs/rigl-resnet20-cifar10-...")
        logits = run.network(images)
        print(run.result["test_accuracy"], {name: float(mask.float().mean()) for name, mask in run.masks.items()})

    Args:
        run: the folder of the run.

    Raises:
        ValueError: the folder holds no finished run, or one of its files is damaged.
    """
    folder = Path(run)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give the folder of a finished run, such as outputs/runs/...")
    files = RunFolder(folder)
    for path in (files.config_file, files.result_file, files.final, files.masks, folder / DONE):
        if not path.exists():
            raise ValueError(
                f"{folder} holds no finished run ({path.name} is missing): give the folder of a finished run"
            )
    config = files.config()
    return FinishedRun(
        folder=folder,
        config=config,
        result=with_current_names(files.result()),
        network=_network(folder, config),
        masks=_tensors(files.masks),
        metrics=_metrics(files.metrics),
    )


def load_network(file: str | Path, *, sparse: bool = True) -> nn.Module:
    """Read a network that ``sparsebench export RUN --sparse`` wrote, in evaluation mode; the run is not needed.

    Args:
        file: the safetensors file.
        sparse: keep and multiply active weights only, where the kernels for processors allow it
            (``execution.direct.store_active``); False gives plain layers with zeros.

    Raises:
        ValueError: the file is missing, damaged or of another kind.
    """
    from sparsebench.app.config.build import build_data, build_network
    from sparsebench.execution.direct import available, store_active
    from sparsebench.sparse.file import read_sparse

    found = read_sparse(Path(file))
    about = {**found.about, "model": {k: v for k, v in found.about["model"].items() if k != "pretrained"}}
    net = build_network(about, build_data(about))
    net.load_state_dict(found.weights)
    if not (sparse and available()):
        return net.eval()
    return store_active(net, _computed_sparsely(net, found.masks)).eval()


def _computed_sparsely(net: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the masks of layers that the kernels support, and that are sparse enough for them."""
    from sparsebench.execution.direct.modules import refusal
    from sparsebench.execution.direct.support import density_of
    from sparsebench.execution.layers import DENSE

    layers = {f"{name}.weight": layer for name, layer in net.named_modules() if name}
    known = {name: mask for name, mask in masks.items() if name in layers and refusal(layers[name]) is None}
    return {name: mask for name, mask in known.items() if density_of(mask) <= DENSE}


def weights_of(folder: Path) -> list[dict[str, Tensor]]:
    """Return the weights of a run's final network, or of each member of an ensemble."""
    files = RunFolder(folder)
    others = files.members
    return [_tensors(files.final), *(_tensors(others) if others.exists() else [])]


def _network(folder: Path, config: Mapping[str, Any]) -> nn.Module:
    from sparsebench.analysis.quality import Ensemble
    from sparsebench.app.config.build import build_data, build_network

    data, nets = build_data(config), []
    for weights in weights_of(folder):
        net = build_network(config, data)
        net.load_state_dict(weights)
        nets.append(net)
    return (nets[0] if len(nets) == 1 else Ensemble(nets)).eval()


def _tensors(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds of errors for a damaged file
        raise ValueError(f"{path} is damaged ({type(error).__name__}): rerun=true trains again") from error


def _metrics(path: Path) -> list[dict[str, float | None]]:
    """Return the rows of a metrics file; empty if the run wrote none (no CSV logger, several fits)."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{key: float(value) if value else None for key, value in row.items()} for row in rows]
