"""Read weights and masks from a file, for a fit to start from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsebench.runs.folder import RunFolder

_WRAPPERS = ("state_dict", "model_state_dict", "model", "weights")
"""Keys of the weights in checkpoints of Lightning and SparseML, PyTorch's tutorials, timm, and our own stages."""
_NAMED = 4


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors or PyTorch file by name (``torch.load`` with ``weights_only=True``).

    For the folder of a run, its final weights are read.

    Raises:
        ValueError: the file cannot be read safely, or holds no tensors.
    """
    file = RunFolder(path).final if path.is_dir() else path
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            found: Any = load_file(file)
        else:
            found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise many kinds of errors
        said = str(error).strip().splitlines()
        why = said[0] if said else type(error).__name__
        raise ValueError(f"{file} cannot be read as weights ({why}): give a state_dict or safetensors") from error
    for key in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
            break
    tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)} if found else {}
    if not tensors:
        raise ValueError(f"{file} holds no weights by name: give a state_dict or safetensors")
    return tensors


def fold_masks(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return plain weights and bool masks of a checkpoint with ``NAME_mask``, as ``torch.nn.utils.prune`` writes it.

    ``NAME_orig`` times ``NAME_mask`` is ``NAME``; a mask next to a plain ``NAME``, as in SparseML, is applied to it.

    Raises:
        ValueError: a mask has no weight.
    """
    weights, masks = dict(tensors), dict[str, Tensor]()
    for key in [name for name in tensors if name.endswith("_mask")]:
        name = key.removesuffix("_mask")
        original = weights.pop(f"{name}_orig", weights.get(name))
        if original is None:
            raise ValueError(f"the checkpoint has {key}, but neither {name}_orig nor {name}")
        masks[name] = weights.pop(key).bool()
        weights[name] = original.masked_fill(~masks[name], 0.0)
    return weights, masks


def start_state(path: Path, net: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return weights, with their masks, for a network; a common prefix such as ``net.`` or ``module.`` is dropped.

    Raises:
        ValueError: names or shapes do not match; the message lists the first.
    """
    wanted = net.state_dict()
    weights, masks = fold_masks(read_tensors(path))
    prefix = _prefix(weights, set(wanted))
    weights, masks = (
        {name.removeprefix(prefix): value for name, value in part.items() if name.startswith(prefix)}
        for part in (weights, masks)
    )
    optional = {name for name in wanted if name.endswith("num_batches_tracked")}
    missing = sorted(set(wanted) - set(weights) - optional)
    unexpected = sorted(set(weights) - set(wanted))
    if missing or unexpected:
        parts = [f"{what} {_some(names)}" for what, names in (("lacks", missing), ("has unknown", unexpected)) if names]
        raise ValueError(f"start_from={path} does not fit the model: it {', and '.join(parts)}; choose its model")
    for name, value in weights.items():
        if value.shape != wanted[name].shape:
            raise ValueError(
                f"start_from={path} does not fit the model: {name} has shape {tuple(value.shape)} in the file and "
                f"{tuple(wanted[name].shape)} in the model; choose the model and the classes of the original training"
            )
    return {**{name: wanted[name] for name in optional}, **weights}, masks


def zeros_of(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return masks that keep the zeros of parameters zero.

    Raises:
        ValueError: there are no zeros to keep.
    """
    masks = {name: weight.detach() != 0 for name, weight in parameters.items()}
    if all(bool(mask.all()) for mask in masks.values()):
        raise ValueError("masks_from=zeros: the weights contain no zeros; give start_from=... with a pruned network")
    return masks


def masks_in(path: Path, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the masks of a file for the named parameters: ``masks.pt`` of a run, or a checkpoint with ``NAME_mask``.

    Raises:
        ValueError: there are no masks, or they do not match the parameters.
    """
    tensors = read_tensors(RunFolder(path).masks if path.is_dir() else path)
    plain = all(value.dtype == torch.bool for value in tensors.values())
    masks = tensors if plain else fold_masks(tensors)[1]
    prefix = _prefix(masks, set(parameters))
    masks = {name.removeprefix(prefix): value for name, value in masks.items()}
    wrong = [name for name, mask in masks.items() if name not in parameters or mask.shape != parameters[name].shape]
    if wrong or not masks:
        what = f"{_some(wrong)} fit no weight that may be sparse" if wrong else "it contains no masks"
        raise ValueError(f"masks_from={path}: {what}; give a run, or a checkpoint with NAME_mask")
    return {name: masks.get(name, torch.ones_like(value, dtype=torch.bool)) for name, value in parameters.items()}


def _prefix(tensors: Mapping[str, Tensor], wanted: set[str]) -> str:
    """Return the prefix in front of the wanted names, the most frequent of several."""
    found = [
        name.removesuffix(end)
        for end in sorted(wanted)[:1]
        for name in tensors
        if name == end or name.endswith(f".{end}")
    ]
    return max(found, key=lambda prefix: sum(f"{prefix}{name}" in tensors for name in wanted), default="")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
