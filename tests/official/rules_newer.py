"""Published rules from 2020 on, evaluated straight: trainable thresholds, GSE and CHTs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from rules_moving import STEPS
from torch import Tensor
from world import DECAY, MOMENTUM, RATE, SEED, SHAPES, Masks, Weights, World, cosine, floor, largest, largest_of_all

from sparsebench.functional.random import generator

QUARTER = {"0.weight": 16, "2.weight": 8}


def dst_thresholds(world: World) -> Iterator[int]:
    """Trainable thresholds: w H(|w| - t), long-tailed derivative, 0.05 sum exp(-t); at step 10 the margins rank."""
    t = {name: torch.zeros(len(w)).double() for name, w in world.w.items()}
    speed = {name: torch.zeros(len(w)).double() for name, w in world.w.items()}

    def margins() -> Weights:
        return {name: world.w[name].abs() - t[name][:, None] for name in SHAPES}

    world.m = {name: margin > 0 for name, margin in margins().items()}
    for step in range(1, STEPS + 1):
        if step <= 10:
            gradient = world.gradient({n: world.w[n] * (m > 0) for n, m in margins().items()}, step - 1)
            slopes: Weights = {}
            for name, margin in margins().items():
                inner = gradient[name] * world.w[name] * derivative(margin)
                slopes[name] = gradient[name] * (margin > 0) + inner * torch.sign(world.w[name])
                pull = -inner.sum(dim=1) - 0.05 * torch.exp(-t[name])
                speed[name] = MOMENTUM * speed[name] + pull + DECAY * t[name]
            world.sgd(slopes)
            t = {name: t[name] - RATE * speed[name] for name in t}
            for name, margin in margins().items():
                if (margin > 0).sum() <= 0.05 * margin.numel():
                    t[name] = torch.zeros_like(t[name])
        else:
            world.sgd(world.masked(world.gradient(world.w, step - 1)))
        if step == 10:
            masks = largest_of_all(margins(), 24)
            world.w = {n: world.w[n] * (m > 0) for n, m in margins().items()}
            world.adopt(masks, keep=masks)
        elif step % 3 == 0 and step < 10:
            world.m = {name: margin > 0 for name, margin in margins().items()}
        yield step


def cram(world: World) -> Iterator[int]:
    """CrAM+: step with g at w plus g at the largest of w + 0.5 g, masked; at the end the largest quarter stays."""
    for step in range(1, STEPS + 1):
        sparsity = (0.5, 0.75)[int(torch.randint(2, (), generator=generator(SEED, "sparsity", step - 1)))]
        clean = world.gradient(world.w, step - 1)
        uphill = {name: w + 0.5 * clean[name] for name, w in world.w.items()}
        masks = largest_of_all({name: w.abs() for name, w in uphill.items()}, round((1 - sparsity) * 96))
        pruned = world.gradient({name: w * masks[name] for name, w in uphill.items()}, step - 1)
        world.sgd({name: clean[name] + masks[name] * pruned[name] for name in SHAPES})
        if step == STEPS:
            world.adopt(largest_of_all({name: w.abs() for name, w in world.w.items()}, 24))
        yield step


def derivative(margin: Tensor) -> Tensor:
    """2 - 4 |x| near the step, 0.4 up to 1, 0 beyond."""
    one = [2 - 4 * abs(x) if abs(x) <= 0.4 else 0.4 if abs(x) <= 1 else 0.0 for x in margin.reshape(-1).tolist()]
    return torch.tensor(one).double().reshape(margin.shape)


def gse(world: World) -> Iterator[int]:
    """GSE: as many random pairs as there are active weights; the best of them grow, the smallest of all layers go."""
    world.random_start(QUARTER)
    for step in range(1, STEPS + 1):
        gradient = world.gradient(world.w, step - 1)
        world.sgd(world.masked(gradient))
        if step % 3 == 0 and step <= 9:
            total = sum(int(mask.sum()) for mask in world.m.values())
            wanted = floor(cosine(0.5, 0.0, step, 9) * total)
            promise = {}
            for name, mask in world.m.items():
                drawn = candidates(mask, step, name) & ~mask
                promise[name] = torch.where(drawn, gradient[name].abs(), -1.0)
            wanted = min(wanted, sum(int((score >= 0).sum()) for score in promise.values()))
            grown = largest_of_all(promise, wanted)
            strength = {name: torch.where(mask, world.w[name].abs(), -1.0) for name, mask in world.m.items()}
            kept = largest_of_all(strength, total - wanted)
            world.adopt({name: kept[name] | grown[name] for name in SHAPES})
        yield step


def candidates(mask: Tensor, step: int, name: str) -> Tensor:
    """Pairs of an output and an input, drawn uniformly with replacement; everything where half of it is active."""
    active = int(mask.sum())
    if active / mask.numel() >= 0.5:
        return torch.ones_like(mask)
    stream, chosen = generator(SEED, "candidates", step, name), torch.zeros_like(mask)
    outputs = torch.randint(mask.shape[0], (active,), generator=stream).tolist()
    inputs = torch.randint(mask.shape[1], (active,), generator=stream).tolist()
    for pair in zip(outputs, inputs, strict=True):
        chosen[pair] = True
    return chosen


def chts(world: World) -> Iterator[int]:
    """CHTs: draw what stays by |w|^T, clear idle neurons, draw what grows by CH2-L3n of what is left."""
    world.random_start(QUARTER)
    for step in range(1, STEPS + 1):
        world.sgd(world.masked(world.gradient(world.w, step - 1)))
        if step % 3 == 0 and step <= 9:
            kept: Masks = {}
            for name, mask in world.m.items():
                stay = int(mask.sum()) - floor(cosine(0.6, 0.0, step, 9) * int(mask.sum()))
                weights = world.w[name].abs() ** (1 + 2 * step / 9)
                kept[name] = drawn(torch.where(mask, weights, 0.0), stay, "stay", step, name)
            kept["0.weight"] = kept["0.weight"] & (kept["2.weight"].sum(dim=0) > 0)[:, None]
            kept["2.weight"] = kept["2.weight"] & (kept["0.weight"].sum(dim=1) > 0)[None, :]
            new: Masks = {}
            for name, mask in world.m.items():
                missing = int(mask.sum() - kept[name].sum())
                score = communities(kept[name])
                if int((score > 0).sum()) < missing:
                    score = torch.where(kept[name], 0.0, score + 1e-5)
                new[name] = kept[name] | drawn(score, missing, "grow", step, name)
            world.adopt(new)
        yield step


def drawn(weights: Tensor, count: int, *path: int | str) -> Tensor:
    """Places drawn without replacement: the first to arrive, each at the rate of its weight."""
    times = -torch.rand(weights.shape, generator=generator(SEED, *path), dtype=torch.float64).log()
    return largest(-(times / weights), count, weights > 0)


def communities(links: Tensor) -> Tensor:
    """Sum (1 + i_z) / (1 + e_z) over the nodes z on paths u - a - b - v of each missing link."""
    on = links.tolist()
    outputs, inputs = range(len(on)), range(len(on[0]))
    scores = torch.zeros(links.shape, dtype=torch.float64)
    for u in outputs:
        for v in (v for v in inputs if not on[u][v]):
            walk = [(a, b) for a in inputs for b in outputs if on[u][a] and on[b][a] and on[b][v]]
            mine, theirs = {a for a, _ in walk}, {b for _, b in walk}
            for a in mine:
                inside = sum(on[b][a] for b in theirs)
                scores[u, v] += (1 + inside) / (1 + sum(on[b][a] for b in outputs if b != u and b not in theirs))
            for b in theirs:
                inside = sum(on[b][a] for a in mine)
                scores[u, v] += (1 + inside) / (1 + sum(on[b][a] for a in inputs if a != v and a not in mine))
    return scores
