"""The probe: a method's access to network and data before the first step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

from torch import Tensor
from torch.nn import Parameter
from torch.utils._pytree import tree_leaves, tree_map

from sparsebench.functional.score import Objective
from sparsebench.runs.messages import check_choice

ScoreMode = Literal["eval", "train"]


class Objectives(Protocol):
    """Objectives for scoring: functions from weights to the loss of a batch, the same on every rank."""

    def __call__(
        self,
        number: int,
        *,
        temperature: float = 1.0,
        mode: ScoreMode = "eval",
        per_class: int | None = None,
        images: int | None = None,
    ) -> Sequence[Objective]:
        """Return the objectives of the requested training batches, evaluated in full precision.

        Args:
            number: number of batches.
            temperature: divisor of the network's output.
            mode: ``eval``: norms use running statistics; ``train``: norms use batch statistics. Dropout is off.
            per_class: number of images of each class, instead of a number of batches.
            images: number of training images, the first ones, instead of a number of batches.
        """
        ...


@dataclass(frozen=True)
class Probe:
    """Access to network and data before the first step, in full precision.

    Attributes:
        objectives: number of batches -> one objective per batch; see ``Objectives`` for further arguments.
        output: weights (float64, by name) -> sum of the network's outputs on an input of ones, in float64.
        parameters: every parameter of the network by name, including those that may not be sparse.
    """

    objectives: Objectives
    output: Objective
    parameters: Mapping[str, Parameter] = field(default_factory=dict[str, Parameter], kw_only=True)

    def ask(
        self,
        number: int,
        *,
        temperature: float = 1.0,
        mode: ScoreMode = "eval",
        per_class: int | None = None,
        images: int | None = None,
    ) -> Sequence[Objective]:
        """Return objectives, passing only non-default arguments, so that custom probes need not accept the others."""
        asked: dict[str, Any] = {} if temperature == 1 else {"temperature": temperature}
        asked |= {} if mode == "eval" else {"mode": mode}
        asked |= {} if per_class is None else {"per_class": per_class}
        asked |= {} if images is None else {"images": images}
        return self.objectives(number, **asked)


def cut(batches: Iterable[Any], images: int) -> list[Any]:
    """Return the first images: a part of the first batch, or several whole batches with equal weight.

    Args:
        batches: batches of equal size, each a tensor or a collection of tensors whose first dimension counts images.
        images: number of images to return.

    Raises:
        ValueError: there are fewer images, or they end within a batch that is not the first.
    """
    taken: list[Any] = []
    left = images
    for batch in batches:
        size = len(next(leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)))
        if left < size and taken:
            raise ValueError(
                f"images={images} ends within a batch of {size}: choose at most {size}, or a multiple of it"
            )
        taken.append(_cut_batch(batch, left) if left < size else batch)
        left -= min(size, left)
        if left == 0:
            return taken
    raise ValueError(
        f"{images} images are needed for scoring, but the training data hold {images - left}: request fewer"
    )


def _cut_batch(batch: Any, images: int) -> Any:
    def first(leaf: Any) -> Any:
        return leaf[:images] if isinstance(leaf, Tensor) else leaf

    return tree_map(first, batch)


def check_sample(batches: int | None, per_class: int | None, mode: str, images: int | None = None) -> None:
    """Raise an error for invalid samples and modes."""
    if per_class is not None and images is not None:
        raise ValueError(f"per_class={per_class} and images={images} both set the scored images: choose one of them")
    for name, value in (("batches", batches), ("per_class", per_class), ("images", images)):
        if value is not None:
            at_least_one(name, value)
    check_choice("score_mode", mode, get_args(ScoreMode))


def at_least_one(name: str, value: int) -> None:
    """Raise an error for numbers below 1."""
    if value < 1:
        raise ValueError(f"{name} {value} is impossible: choose a whole number of at least 1")
