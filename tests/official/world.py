"""A network of two layers, its data and plain SGD, written out: what the traces of published rules are computed on.

Nothing here, or in the rules beside it, uses the package under test, but for its random streams: a draw is an input of
a rule, as a batch is.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparsebench.functional.random import generator

SHAPES = {"0.weight": (8, 8), "2.weight": (4, 8)}
SIZE = 96
RATE, MOMENTUM, DECAY = 0.1, 0.9, 0.01
SEED = 0

Weights = dict[str, Tensor]
Masks = dict[str, Tensor]


class World:
    """Weights, velocities, masks and data in float64."""

    def __init__(self) -> None:
        stream = torch.Generator().manual_seed(7)
        self.w: Weights = {
            name: rounded(0.5 * torch.randn(shape, generator=stream, dtype=torch.float64))
            for name, shape in SHAPES.items()
        }
        self.batches = [
            (
                rounded(torch.randn(12, 8, generator=stream, dtype=torch.float64)),
                torch.randint(4, (12,), generator=stream),
            )
            for _ in range(4)
        ]
        self.v: Weights = {name: torch.zeros_like(w) for name, w in self.w.items()}
        self.m: Masks = {name: torch.ones_like(w, dtype=torch.bool) for name, w in self.w.items()}

    # -- the network ----------------------------------------------------------------------------------------------

    def loss(self, weights: Weights, number: int, temperature: float = 1.0) -> Tensor:
        """Cross-entropy of tanh(x A) B on a batch."""
        images, labels = self.batches[number % 4]
        logits = torch.tanh(images @ weights["0.weight"].T) @ weights["2.weight"].T / temperature
        return -torch.log_softmax(logits, dim=1)[torch.arange(len(labels)), labels].mean()

    def gradient(self, weights: Weights, number: int) -> Weights:
        """Dense gradient of the loss for what the network sees."""
        leaves = {name: w.detach().requires_grad_() for name, w in weights.items()}
        slopes = torch.autograd.grad(self.loss(leaves, number), list(leaves.values()))
        return dict(zip(leaves, slopes, strict=True))

    # -- the optimizer ----------------------------------------------------------------------------------------------

    def sgd(self, gradient: Weights) -> None:
        """Step with momentum and weight decay."""
        for name, slope in gradient.items():
            self.v[name] = MOMENTUM * self.v[name] + slope + DECAY * self.w[name]
            self.w[name] = self.w[name] - RATE * self.v[name]

    def masked(self, gradient: Weights) -> Weights:
        """Gradient of the active weights, zero elsewhere."""
        return {name: slope * self.m[name] for name, slope in gradient.items()}

    def adopt(self, new: Masks, keep: Masks | None = None) -> None:
        """Take new masks; what is off, and what is new, is zero and at rest."""
        for name, mask in new.items():
            stays = mask & (self.m[name] if keep is None else keep[name])
            self.w[name], self.v[name] = self.w[name] * stays, self.v[name] * stays
            self.m[name] = mask

    # -- masks --------------------------------------------------------------------------------------------------------

    def random_start(self, counts: dict[str, int]) -> None:
        """Take as many weights of each layer at random."""
        self.adopt({name: largest(draw("start", name), counts[name]) for name in SHAPES})


def rounded(values: Tensor) -> Tensor:
    """Round to four digits, so that a text file holds the very numbers."""
    return (values * 1e4).round() / 1e4


def draw(*path: int | str) -> Tensor:
    """Uniform numbers in the shape of the layer that the path ends with."""
    return torch.rand(SHAPES[str(path[-1])], generator=generator(SEED, *path))


def largest(values: Tensor, count: int, among: Tensor | None = None) -> Tensor:
    """Mark the largest values, one after the other."""
    flat = values.reshape(-1).tolist()
    places = range(len(flat)) if among is None else among.reshape(-1).nonzero().reshape(-1).tolist()
    chosen = sorted(places, key=lambda place: (-flat[place], place))[:count]
    mask = torch.zeros(len(flat), dtype=torch.bool)
    mask[chosen] = True
    return mask.reshape(values.shape)


def largest_of_all(values: Weights, count: int) -> Masks:
    """Mark the largest values of all layers together."""
    ranked = sorted(
        ((-number, name, place) for name, v in values.items() for place, number in enumerate(v.reshape(-1).tolist())),
        key=lambda entry: entry[0],
    )
    masks = {name: torch.zeros(v.numel(), dtype=torch.bool) for name, v in values.items()}
    for _, name, place in ranked[:count]:
        masks[name][place] = True
    return {name: mask.reshape(SHAPES[name]) for name, mask in masks.items()}


def cosine(start: float, end: float, step: int, last: int) -> float:
    """Half a cosine from start to end."""
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, step / last))) / 2


def floor(value: float) -> int:
    """Round down, but for dust."""
    return math.floor(round(value, 9))


def ceil(value: float) -> int:
    """Round up, but for dust."""
    return math.ceil(round(value, 9))
