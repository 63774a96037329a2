"""Known layer types: the names of their weights, how they compute with them, and the layout of their dimensions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

from torch import nn
from torch.nn import Parameter

TYPES: dict[str, tuple[type[nn.Module], ...]] = {
    "conv": (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    "linear": (nn.Linear, nn.MultiheadAttention),
    "attention": (nn.MultiheadAttention,),
    "recurrent": (nn.RNNBase, nn.RNNCellBase),
    "embedding": (nn.Embedding,),
}
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NO_PRODUCTS = (nn.LayerNorm, nn.RMSNorm, nn.EmbeddingBag)
SCALED = ("WeightNorm", "SpectralNorm")
"""Parametrizations that rescale a weight: their zeros are its zeros."""


def owned_weights(module: nn.Module, types: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Iterate over the weights of all known layers, under each shared name, with whether a type selects them."""
    asked = tuple(kind for name in types for kind in TYPES[name])
    known = tuple(kind for kinds in TYPES.values() for kind in kinds)
    for prefix, layer in _layers(module):
        wanted = isinstance(layer, asked) or ("linear" in types and is_hugging_face_linear(layer))
        if wanted or isinstance(layer, known) or is_hugging_face_linear(layer):
            for name in _weights(layer):
                yield f"{prefix}.{name}" if prefix else name, wanted


def unserved_weights(module: nn.Module, types: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Iterate over matrix weights of layers that no chosen type covers, with advice for each."""
    for prefix, layer in _layers(module) if "linear" in types else ():
        advice = ""
        if isinstance(layer, TYPES["recurrent"]) and "recurrent" not in types:
            advice = "recurrent: add recurrent to the types to make it sparse"
        elif isinstance(layer, nn.Bilinear):
            advice = "bilinear: name it in include to make it sparse"
        for name in _weights(layer) if advice else ():
            yield f"{prefix}.{name}" if prefix else name, advice


def foreign_weights(module: nn.Module) -> Iterator[tuple[str, Parameter]]:
    """Iterate over matrices of layers of an unknown type, such as the experts of a mixture in one tensor.

    Tables of one row, such as position embeddings, and the scales of norms do not count.
    """
    known = tuple(kind for kinds in TYPES.values() for kind in kinds)
    for prefix, layer in _layers(module):
        if isinstance(layer, (*known, *_NO_PRODUCTS, nn.Bilinear)) or is_hugging_face_linear(layer):
            continue
        for name, parameter in layer.named_parameters(recurse=False):
            if parameter.dim() >= 2 and min(parameter.shape) > 1 and not name.startswith("bias"):
                yield f"{prefix}.{name}" if prefix else name, parameter


def direct_weights(module: nn.Module, name: str, parameter: Parameter) -> Parameter:
    """Return the parameter if a zero in it is a zero of the weight that its layer computes with.

    Raises:
        ValueError: the layer computes its weight from the parameter by another parametrization.
    """
    prefix, _, rest = name.partition("parametrizations.")
    layer: Any = module.get_submodule((prefix if rest else name.rpartition(".")[0]).rstrip("."))
    own = name.rpartition(".")[2]
    if rest:
        steps = list(layer.parametrizations[rest.partition(".")[0]])
        foreign = [type(step).__name__ for step in steps if not type(step).__name__.lstrip("_").startswith(SCALED)]
        if foreign:
            raise ValueError(
                f"{name} is used through {foreign[0]}, so its zeros are not zeros of the weight: remove the "
                f"parametrization, or leave the layer dense with exclude=[{name}]"
            )
    elif own.endswith("_orig") and hasattr(layer, f"{own.removesuffix('_orig')}_mask"):
        raise ValueError(
            f"{name} already has a mask of torch.nn.utils.prune: make it permanent with prune.remove, "
            f"or leave the layer dense with exclude=[{name}]"
        )
    return parameter


def norms_of(module: nn.Module | None, names: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Return the shape of the norms by which weight_norm divides, for parameters that are directions."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name in names:
        layer, _, own = name.rpartition(".")
        norm = f"{layer}.{_norm_name(own)}" if layer else _norm_name(own)
        if module is not None and _norm_name(own) and (found := _parameter(module, norm)) is not None:
            shapes[name] = tuple(found.shape)
    return shapes


def transposed(module: nn.Module | None, name: str) -> bool:
    """Return True if dimension 0 of a weight counts inputs: transposed convolutions, Hugging Face's Conv1D."""
    if module is None:
        return False
    layer = module.get_submodule(name.partition("parametrizations.")[0].rpartition(".")[0])
    return isinstance(layer, TRANSPOSED) or is_hugging_face_linear(layer)


def is_hugging_face_linear(layer: nn.Module) -> bool:
    """Return True for Hugging Face's ``Conv1D``: a linear layer with weight (in, out)."""
    return type(layer).__name__ == "Conv1D" and hasattr(layer, "nf") and not isinstance(layer, nn.Conv1d)


def _layers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return cast(Iterator[tuple[str, nn.Module]], module.named_modules(remove_duplicate=False))


def _weights(layer: nn.Module) -> Iterator[str]:
    """Iterate over the names of a layer's own weights, including the originals of its parametrizations.

    Biases (attention's ``bias_k`` has three dimensions) and the norms of weight_norm do not count as weights.
    """
    names = dict(layer.named_parameters(remove_duplicate=False))
    norms = {_norm_name(name) for name in names}
    for name, parameter in names.items():
        own = "." not in name or name.startswith("parametrizations.")
        if own and parameter.dim() >= 2 and not name.startswith("bias") and name not in norms:
            yield name


def _norm_name(direction: str) -> str:
    """Return the name of the norm parameter of a weight_norm direction; empty for other parameters."""
    for end, other in (("original1", "original0"), ("_v", "_g")):
        if direction.endswith(end):
            return direction.removesuffix(end) + other
    return ""


def _parameter(module: nn.Module, name: str) -> Parameter | None:
    try:
        return module.get_parameter(name)
    except AttributeError:
        return None
