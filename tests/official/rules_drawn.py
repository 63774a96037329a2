"""Published rules of learned probabilities, evaluated straight: VR-PGE on weights, and ProbMask."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from rules_moving import STEPS
from rules_still import cubic
from torch import Tensor
from world import SHAPES, SIZE, Masks, Weights, World, draw, largest_of_all

Scores = dict[str, Tensor]


class Adam:
    """Adam as published, for the scores."""

    def __init__(self, rate: float) -> None:
        self.rate, self.turn = rate, 0
        self.mean = {name: torch.zeros(shape).double() for name, shape in SHAPES.items()}
        self.square = {name: torch.zeros(shape).double() for name, shape in SHAPES.items()}

    def step(self, scores: Scores, gradient: Scores) -> Scores:
        """Return the scores after a step."""
        self.turn += 1
        moved: Scores = {}
        for name, slope in gradient.items():
            self.mean[name] = 0.9 * self.mean[name] + 0.1 * slope
            self.square[name] = 0.999 * self.square[name] + 0.001 * slope**2
            mean = self.mean[name] / (1 - 0.9**self.turn)
            root = (self.square[name] / (1 - 0.999**self.turn)).sqrt()
            moved[name] = scores[name] - self.rate * mean / (root + 1e-8)
        return moved


def project(scores: Scores, budget: float) -> Scores:
    """Subtract one number from all scores, clamped to [0, 1], so that their sum is within the budget."""

    def total(shift: float) -> float:
        return sum(float((s - shift).clamp(0, 1).sum()) for s in scores.values())

    low, high = 0.0, max(float(s.max()) for s in scores.values())
    if total(0.0) <= budget:
        return {name: s.clamp(0, 1) for name, s in scores.items()}
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if total(middle) > budget else (low, middle)
    return {name: (s - high).clamp(0, 1) for name, s in scores.items()}


def keep_most_probable(world: World, scores: Scores, count: int) -> None:
    """Fix the most probable weights, of those with a probability above 0."""
    alive = sum(int((s > 0).sum()) for s in scores.values())
    world.adopt(largest_of_all(scores, min(count, alive)))


def vr_pge(world: World) -> Iterator[int]:
    """VR-PGE: (L0 - L1)(m0 - m1) / (2 sqrt(s (1 - s))) for s, the chain rule through the first network for w."""
    scores, adam = {name: torch.full(shape, 0.5).double() for name, shape in SHAPES.items()}, Adam(0.05)
    for step in range(1, STEPS + 1):
        if step > 9:
            world.sgd(world.masked(world.gradient(world.w, step - 1)))
        else:
            masks: list[Masks] = [
                {name: draw("mask", step - 1, 0, sample, name) < scores[name] for name in SHAPES} for sample in (0, 1)
            ]
            seen: list[Weights] = [{name: w * mask[name] for name, w in world.w.items()} for mask in masks]
            losses = [float(world.loss(weights, step - 1)) for weights in seen]
            slope = world.gradient(seen[0], step - 1)
            gradient: Scores = {}
            for name, s in scores.items():
                difference = masks[0][name].double() - masks[1][name].double()
                root = (s * (1 - s)).clamp(min=1e-6).sqrt()
                gradient[name] = (losses[0] - losses[1]) * difference / (2 * root)
            world.sgd({name: slope[name] * masks[0][name] for name in SHAPES})
            scores = project(adam.step(scores, gradient), 48)
            if step == 9:
                keep_most_probable(world, scores, 48)
        yield step


def probmask(world: World) -> Iterator[int]:
    """ProbMask: the chain rule through sigmoid(T (logit s + noise)), two draws; K falls from step 2 to 7."""
    scores, adam = {name: torch.ones(shape).double() for name, shape in SHAPES.items()}, Adam(0.05)
    for step in range(1, STEPS + 1):
        if step > 9:
            world.sgd(world.masked(world.gradient(world.w, step - 1)))
        else:
            heat = 1 / (0.97 * (1 - (step - 1) / STEPS) + 0.03)
            weights = {name: w.clone().requires_grad_() for name, w in world.w.items()}
            chances = {name: s.clone().requires_grad_() for name, s in scores.items()}
            losses: list[Tensor] = []
            for sample in (0, 1):
                seen: Weights = {}
                for name, s in chances.items():
                    uniform = draw("noise", step - 1, 0, sample, name).clamp(1e-6, 1 - 1e-6)
                    odds = torch.log(s + 1e-20) - torch.log(1 - s + 1e-20)
                    seen[name] = weights[name] * torch.sigmoid(heat * (odds + torch.logit(uniform)))
                losses.append(world.loss(seen, step - 1))
            leaves = [*weights.values(), *chances.values()]
            slopes = torch.autograd.grad((losses[0] + losses[1]) / 2, leaves)
            world.sgd(dict(zip(SHAPES, slopes[:2], strict=True)))
            moved = adam.step(scores, dict(zip(SHAPES, slopes[2:], strict=True)))
            scores = project(moved, SIZE * cubic(1.0, 0.25, (step - 2) / 5))
            if step == 9:
                keep_most_probable(world, scores, 24)
        yield step
