"""Published rules by which weights are powers or products of what is trained, evaluated straight.

The weights at the end are those that are trained: roots, or the factors u.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from rules_moving import STEPS
from world import DECAY, MOMENTUM, RATE, SHAPES, Weights, World, largest_of_all


def powerpropagation(world: World) -> Iterator[int]:
    """Powerpropagation, alpha 3: w = t |t|^2; at step 10 the largest weights of all stay."""
    world.w = {name: torch.sign(w) * w.abs() ** (1 / 3) for name, w in world.w.items()}
    for step in range(1, STEPS + 1):
        gradient = world.gradient({name: t * t.abs() ** 2 for name, t in world.w.items()}, step - 1)
        world.sgd(world.masked({name: 3 * world.w[name].abs() ** 2 * gradient[name] for name in SHAPES}))
        if step == 10:
            masks = largest_of_all({name: w.abs() ** 3 for name, w in world.w.items()}, 24)
            world.adopt(masks, keep=masks)
        yield step


def factored(world: World, balance: float, strength: Callable[[int, Weights], float]) -> Iterator[int]:
    """Train w = m u from m^2 - u^2 = balance with a penalty on both squares; at step 10 the largest of all stay."""
    m = {name: torch.empty_like(w) for name, w in world.w.items()}
    rest = {name: torch.zeros_like(w) for name, w in world.w.items()}
    for name, w in world.w.items():
        for place in range(w.numel()):
            value = w.reshape(-1)[place].item()
            m[name].reshape(-1)[place] = math.sqrt((balance + math.sqrt(balance**2 + 4 * value**2)) / 2)
        world.w[name] = w / m[name]

    def product() -> Weights:
        return {name: m[name] * world.w[name] for name in SHAPES}

    for step in range(1, STEPS + 1):
        alpha = strength(step, product())
        gradient = world.gradient({n: w * world.m[n] for n, w in product().items()}, step - 1)
        seen: Weights = {name: slope * world.m[name] for name, slope in gradient.items()}
        pull = {name: seen[name] * world.w[name] + 2 * alpha * m[name] for name in SHAPES}
        world.sgd({n: (seen[n] * m[n] + 2 * alpha * world.w[n]) * world.m[n] for n in SHAPES})
        for name in SHAPES:
            rest[name] = MOMENTUM * rest[name] + pull[name] + DECAY * m[name]
            m[name] = m[name] - RATE * rest[name]
        if step == 10:
            masks = largest_of_all({name: w.abs() for name, w in product().items()}, 24)
            world.adopt(masks, keep=masks)
        yield step


def spred(world: World) -> Iterator[int]:
    """Spred: factors equal in magnitude at the start, the sum of their squares times 0.01 in the loss."""
    yield from factored(world, 0.0, lambda step, weights: 0.01)


def pilot(world: World) -> Iterator[int]:
    """PILoT: m^2 - u^2 = 1 at the start; alpha times 2 while the loss of 3 steps falls, up to step 6, else halved."""
    alpha, losses, before = 0.01, [], math.inf

    def strength(step: int, weights: Weights) -> float:
        nonlocal alpha, before
        if step > 1 and (step - 1) % 3 == 0:
            mean, norm = sum(losses) / 3, sum(float(w.abs().sum()) for w in weights.values())
            alpha = alpha * 2 if mean <= before and norm >= 17 and step - 1 <= STEPS / 2 else alpha / 2
            before = mean
            losses.clear()
        losses.append(world.loss({n: w * world.m[n] for n, w in weights.items()}, step - 1).item())
        return alpha

    yield from factored(world, 1.0, strength)
