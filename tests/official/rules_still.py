"""Published rules evaluated straight: pruning at initialisation, during training, and by the form of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from rules_moving import STEPS, grow_by_gradient
from torch import Tensor
from world import (
    DECAY,
    MOMENTUM,
    RATE,
    SHAPES,
    SIZE,
    Masks,
    Weights,
    World,
    ceil,
    cosine,
    floor,
    largest,
    largest_of_all,
)

QUARTER = {"0.weight": 16, "2.weight": 8}


def cubic(start: float, end: float, progress: float) -> float:
    """The curve of Zhu and Gupta."""
    return end + (start - end) * (1 - min(1.0, max(0.0, progress))) ** 3


# -- at initialisation ----------------------------------------------------------------------------------------------


def snip(world: World) -> Iterator[int]:
    """SNIP: the weights of largest |w g| of all layers stay."""
    gradient = world.gradient(world.w, 0)
    world.adopt(largest_of_all({name: (world.w[name] * gradient[name]).abs() for name in SHAPES}, 24))
    yield 0


def grasp(world: World) -> Iterator[int]:
    """GraSP: the weights of largest w (H g) stay; the Hessian is written out, the logits are divided by 200."""
    flat = torch.cat([world.w[name].reshape(-1) for name in SHAPES])

    def loss(values: Tensor) -> Tensor:
        first, second = values.split([64, 32])
        weights = {"0.weight": first.reshape(8, 8), "2.weight": second.reshape(4, 8)}
        return (world.loss(weights, 0, 200.0) + world.loss(weights, 1, 200.0)) / 2

    slope = torch.autograd.functional.jacobian(loss, flat)
    scores = flat * (torch.autograd.functional.hessian(loss, flat) @ slope)
    parts = dict(zip(SHAPES, scores.split([64, 32]), strict=True))
    world.adopt(largest_of_all({name: part.reshape(SHAPES[name]) for name, part in parts.items()}, 24))
    yield 0


def synflow(world: World) -> Iterator[int]:
    """SynFlow: ten rounds of |w dR/dw| on positive weights and an input of ones, counts rounded up on the way."""
    for turn in range(1, 11):
        leaves = {name: (world.w[name].abs() * world.m[name]).requires_grad_() for name in SHAPES}
        flow = (torch.tanh(torch.ones(1, 8).double() @ leaves["0.weight"].T) @ leaves["2.weight"].T).sum()
        slopes = dict(zip(SHAPES, torch.autograd.grad(flow, list(leaves.values())), strict=True))
        scores = {n: (leaves[n] * slopes[n]).abs().detach().masked_fill(~world.m[n], -1.0) for n in SHAPES}
        count = ceil(SIZE * 0.25 ** (turn / 10)) if turn < 10 else 24
        world.adopt(largest_of_all(scores, count))
    yield 0


# -- during training ------------------------------------------------------------------------------------------------


def active_magnitudes(world: World) -> Weights:
    """Magnitudes, pruned weights below all others."""
    return {name: world.w[name].abs().masked_fill(~world.m[name], -1.0) for name in SHAPES}


def gmp(world: World) -> Iterator[int]:
    """GMP: every layer along the cubic curve to a quarter at step 9; counts by largest remainder."""
    for step in range(1, STEPS + 1):
        world.sgd(world.masked(world.gradient(world.w, step - 1)))
        if step % 3 == 0 and step <= 9:
            share = cubic(1.0, 0.25, step / 9)
            counts = {"0.weight": floor(64 * share), "2.weight": floor(32 * share)}
            while sum(counts.values()) < round(round(SIZE * share, 6)):
                counts[max(SHAPES, key=lambda n: round(math.prod(SHAPES[n]) * share - counts[n], 6))] += 1
            world.adopt({name: largest(values, counts[name]) for name, values in active_magnitudes(world).items()})
        yield step


def granet(world: World) -> Iterator[int]:
    """GraNet: global cubic pruning to step 6, each followed by regeneration by gradient, which goes on."""
    for step in range(1, STEPS + 1):
        gradient = world.gradient(world.w, step - 1)
        world.sgd(world.masked(gradient))
        if step % 3 == 0 and step < STEPS:
            if step <= 6:
                count = floor(SIZE * cubic(1.0, 0.25, step / 6)) if step < 6 else 24
                world.adopt(largest_of_all(active_magnitudes(world), count))
            grow_by_gradient(world, gradient, cosine(0.5, 0.005, step, STEPS), ceil)
        yield step


def ac_dc(world: World) -> Iterator[int]:
    """AC/DC, 20 steps: dense to 2, sparse to 5, dense to 7, sparse to 10, dense to 14, sparse to the end."""
    for step in range(1, 21):
        world.sgd(world.masked(world.gradient(world.w, step - 1)))
        if step in (2, 7, 14):
            world.adopt(largest_of_all({name: w.abs() for name, w in world.w.items()}, 24))
        if step in (5, 10):
            world.m = {name: torch.ones_like(mask) for name, mask in world.m.items()}
            world.v = {name: torch.zeros_like(v) for name, v in world.v.items()}
        yield step


# -- by the form of the weights -------------------------------------------------------------------------------------


def str_(world: World) -> Iterator[int]:
    """STR: sign(w) relu(|w| - sigmoid(a)), a decays with the weights; at step 10 the largest margins of all stay."""
    a, speed = {n: torch.tensor(-2.0).double() for n in SHAPES}, {n: torch.tensor(0.0).double() for n in SHAPES}

    def seen(weights: Weights, heights: Weights) -> Weights:
        return {n: torch.sign(w) * torch.relu(w.abs() - torch.sigmoid(heights[n])) for n, w in weights.items()}

    def margins() -> Weights:
        return {name: world.w[name].abs() - torch.sigmoid(a[name]) for name in SHAPES}

    world.m = {name: margin > 0 for name, margin in margins().items()}
    for step in range(1, STEPS + 1):
        if step <= 10:
            weights = {name: w.clone().requires_grad_() for name, w in world.w.items()}
            heights = {name: value.clone().requires_grad_() for name, value in a.items()}
            leaves = [*weights.values(), *heights.values()]
            slopes = torch.autograd.grad(world.loss(seen(weights, heights), step - 1), leaves)
            world.sgd(dict(zip(SHAPES, slopes[:2], strict=True)))
            for name, slope in zip(SHAPES, slopes[2:], strict=True):
                speed[name] = MOMENTUM * speed[name] + slope + DECAY * a[name]
                a[name] = a[name] - RATE * speed[name]
        else:
            world.sgd(world.masked(world.gradient(world.w, step - 1)))
        if step == 10:
            masks = largest_of_all(margins(), 24)
            world.w = seen(world.w, a)
            world.adopt(masks, keep=masks)
        elif step % 3 == 0 and step < 10:
            world.m = {name: margin > 0 for name, margin in margins().items()}
        yield step


def two_of_four(values: Weights) -> Masks:
    """The two largest of every four consecutive inputs."""
    return {
        name: torch.cat([torch.stack([largest(four, 2) for four in part]) for part in v.reshape(-1, 1, 4)]).reshape(
            v.shape
        )
        for name, v in values.items()
    }


def sr_ste(world: World) -> Iterator[int]:
    """SR-STE, 2:4, masks at every step: the gradient at m w goes to w, and pruned weights decay besides."""
    world.m = two_of_four({name: w.abs() for name, w in world.w.items()})
    for step in range(1, STEPS + 1):
        gradient = world.gradient({name: w * world.m[name] for name, w in world.w.items()}, step - 1)
        world.sgd({name: slope + 0.05 * world.w[name] * ~world.m[name] for name, slope in gradient.items()})
        world.m = two_of_four({name: w.abs() for name, w in world.w.items()})
        yield step


def top_kast(world: World) -> Iterator[int]:
    """Top-KAST: compute with A, a quarter; update B, a half; penalty 1 in A and 1 / density in B outside A."""

    def sets() -> tuple[Masks, Masks]:
        size = {name: w.abs() for name, w in world.w.items()}
        inner = {name: largest(size[name], QUARTER[name]) for name in SHAPES}
        return inner, {name: largest(size[name], 2 * QUARTER[name]) for name in SHAPES}

    inner, outer = sets()
    world.m = inner
    for step in range(1, STEPS + 1):
        gradient = world.gradient({name: w * inner[name] for name, w in world.w.items()}, step - 1)
        pull = {name: torch.where(inner[name], 1.0, outer[name].double() / 0.25) for name in SHAPES}
        before = dict(world.w)
        world.sgd({name: gradient[name] * outer[name] + 0.01 * pull[name] * world.w[name] for name in SHAPES})
        world.w = {name: torch.where(outer[name], world.w[name], before[name]) for name in SHAPES}
        inner, outer = sets()
        world.m = inner
        yield step


def linbreg(world: World) -> Iterator[int]:
    """LinBreg with l1: v <- v - lr g, w = soft(v, lambda); v starts at w + lambda sign(w)."""
    world.w = {name: w * (torch.arange(w.numel()).reshape(w.shape) % 5 == 0) for name, w in world.w.items()}
    dual = {name: w + 0.1 * torch.sign(w) for name, w in world.w.items()}
    world.m = {name: w != 0 for name, w in world.w.items()}
    for step in range(1, STEPS + 1):
        gradient = world.gradient(world.w, step - 1)
        dual = {name: dual[name] - 0.5 * gradient[name] for name in SHAPES}
        world.w = {name: torch.sign(v) * torch.relu(v.abs() - 0.1) for name, v in dual.items()}
        world.m = {name: w != 0 for name, w in world.w.items()}
        yield step
