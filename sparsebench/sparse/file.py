"""Networks in safetensors files, without their zeros: active values, and a bit or an index for their places."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from sparsebench.runs.atomic import write_atomically

FORM = "sparsebench sparse 1"


@dataclass(frozen=True)
class SparseFile:
    """The contents of a sparse file.

    Attributes:
        weights: the whole state_dict, including zeros.
        masks: bool, True where a weight is active; no entry means dense.
        about: what the writer noted.
    """

    weights: dict[str, Tensor]
    masks: dict[str, Tensor]
    about: dict[str, Any]


def write_sparse(
    path: Path, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], about: Mapping[str, Any]
) -> None:
    """Write a network whose masked tensors are stored as active values with their places.

    A masked tensor NAME becomes ``NAME.values``, its active values in row-major order, and the smaller one of
    ``NAME.bits`` (uint8, a bit for each weight, the first in the lowest bit) and ``NAME.places`` (int32, flat indices).
    Shapes are in the metadata. Other tensors stay as they are.

    Args:
        path: the file.
        weights: a state_dict.
        masks: bool, by the names of tensors.
        about: anything that JSON can hold, for the reader.

    Raises:
        ValueError: a mask fits no tensor, or a weight outside a mask is not zero.
    """
    from safetensors.torch import save

    stored: dict[str, Tensor] = {}
    for name, value in weights.items():
        value = value.detach().cpu().contiguous()
        if name in masks:
            stored |= _split(name, value, masks[name].cpu())
        else:
            stored[name] = value.clone()  # shared tensors are stored once for each name
    if unknown := sorted(set(masks) - set(weights)):
        raise ValueError(f"mask for {unknown[0]!r}, which is no tensor of the network")
    shapes = {name: list(weights[name].shape) for name in masks}
    metadata = {"form": FORM, "shapes": json.dumps(shapes), "about": json.dumps(about)}
    write_atomically(path, save(stored, metadata))


def read_sparse(path: Path) -> SparseFile:
    """Read a file that ``write_sparse`` wrote.

    Raises:
        ValueError: the file is missing, damaged or of another kind.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ValueError(f"{path} is not a file: give the file that sparsebench export RUN --sparse wrote")
    try:
        opened: Any = safe_open(path, framework="pt")
        with opened as file:
            metadata = cast(dict[str, str], file.metadata() or {})
            stored: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file ({error}): export it again") from error
    if metadata.get("form") != FORM:
        raise ValueError(f"{path} is not a sparse file of sparsebench: read it with safetensors.torch.load_file")
    weights: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = {}
    for name, shape in json.loads(metadata["shapes"]).items():
        weights[name], masks[name] = _join(name, stored, tuple(shape))
    rest = {name: value for name, value in stored.items() if name.rpartition(".")[0] not in masks}
    return SparseFile({**rest, **weights}, masks, json.loads(metadata["about"]))


def _split(name: str, value: Tensor, mask: Tensor) -> dict[str, Tensor]:
    if mask.dtype != torch.bool or mask.shape != value.shape:
        shapes = f"{mask.dtype} {tuple(mask.shape)} given, torch.bool {tuple(value.shape)} needed"
        raise ValueError(f"mask of {name}: {shapes}")
    flat, active = value.reshape(-1), mask.reshape(-1)
    if bool(flat[~active].count_nonzero()):
        raise ValueError(f"{name} has weights outside its mask that are not zero: they would be lost")
    places = active.nonzero().reshape(-1)
    if 4 * len(places) < flat.numel() / 8 and flat.numel() < 2**31:
        where = {f"{name}.places": places.to(torch.int32)}
    else:
        where = {f"{name}.bits": torch.as_tensor(np.packbits(active.numpy(), bitorder="little"))}
    return {f"{name}.values": flat[places], **where}


def _join(name: str, stored: Mapping[str, Tensor], shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    values, size = stored[f"{name}.values"], torch.Size(shape).numel()
    if f"{name}.places" in stored:
        mask = torch.zeros(size, dtype=torch.bool)
        mask[stored[f"{name}.places"].long()] = True
    else:
        bits = np.unpackbits(stored[f"{name}.bits"].numpy(), count=size, bitorder="little")
        mask = torch.as_tensor(bits).bool()
    weight = torch.zeros(size, dtype=values.dtype)
    weight[mask] = values
    return weight.reshape(shape), mask.reshape(shape)
