"""Models of timm, which is imported only on request, because importing it takes seconds."""

from typing import TYPE_CHECKING, Any

from torch import nn

from sparsebench.runs.messages import did_you_mean

if TYPE_CHECKING:
    from types import ModuleType

SOURCES = ("hf-hub:", "local-dir:")


def build_timm(
    name: str, *, classes: int, shape: tuple[int, int, int] = (3, 32, 32), pretrained: bool = False, **options: Any
) -> nn.Module:
    """Build a timm model with the outputs and input channels of the data set.

    Args:
        name: a name from ``timm.list_models()``, with or without a tag of weights (``resnet50.a1_in1k``), or the place
            of a model description: ``hf-hub:OWNER/NAME``, ``local-dir:FOLDER``.
        classes: number of outputs.
        shape: channels, height, width of one image. Only the channels are passed on: transformers of fixed
            resolution also need ``img_size`` among the options.
        pretrained: download the published weights.
        **options: passed to the model, for example ``img_size=32`` or ``drop_path_rate=0.1``.

    Raises:
        ValueError: for an unknown name, or an option that the model does not take.
    """
    import timm

    if not name.startswith(SOURCES) and not timm.is_model(name):
        raise ValueError(_unknown(name, timm))
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=classes, in_chans=shape[0], **options)
    except TypeError as error:
        given = ", ".join(f"{key}={value!r}" for key, value in options.items()) or "no options"
        raise ValueError(
            f"timm model {name!r} cannot be built with {given}: {error}; leave the option out or choose another model"
        ) from error


def _unknown(name: str, timm: "ModuleType") -> str:
    hint = did_you_mean(name, timm.list_models(), at_most=3)
    return (
        f"timm {timm.__version__} has no model {name!r}{hint}: allowed are the names of timm.list_models() and the "
        f"prefixes {' and '.join(SOURCES)} for model descriptions elsewhere"
    )
