"""Published rules of dynamic sparse training, evaluated straight: from SET and RigL to SNFS, DSR, DeepR and CHT."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from world import SHAPES, World, ceil, cosine, draw, floor, largest

from sparsebench.functional.random import generator

STEPS = 12
HALF = {"0.weight": 32, "2.weight": 16}
QUARTER = {"0.weight": 16, "2.weight": 8}


def drop(world: World, name: str, count: int) -> Tensor:
    """All active weights but the smallest."""
    mask = world.m[name]
    return largest(world.w[name].abs(), int(mask.sum()) - count, mask)


def set_(world: World) -> Iterator[int]:
    """SET with joint magnitudes: step, then drop the smallest, grow as many at random among all that was not kept."""
    world.random_start(HALF)
    for step in range(1, STEPS + 1):
        world.sgd(world.masked(world.gradient(world.w, step - 1)))
        if step % 3 == 0 and step <= 9:
            new = {}
            for name, mask in world.m.items():
                kept = drop(world, name, floor(cosine(0.3, 0.0, step, 9) * int(mask.sum())))
                new[name] = kept | largest(draw("grow", step, name), int(mask.sum() - kept.sum()), ~kept)
            world.adopt(new)
        yield step


def grow_by_gradient(world: World, gradient: dict[str, Tensor], share: float, rounding, score=None) -> None:
    """Drop by magnitude, grow by gradient magnitude, or another score, among all that was not kept."""
    new = {}
    for name, mask in world.m.items():
        kept = drop(world, name, rounding(share * int(mask.sum())))
        promise = gradient[name].abs() if score is None else score(name, gradient[name])
        new[name] = kept | largest(promise, int(mask.sum() - kept.sum()), ~kept)
    world.adopt(new)


def rigl(world: World) -> Iterator[int]:
    """RigL, algorithm 1: an update takes the place of a step and looks at that step's dense gradient."""
    world.random_start(HALF)
    for step in range(STEPS):
        gradient = world.gradient(world.w, step)
        if 0 < step <= 9 and step % 3 == 0:
            grow_by_gradient(world, gradient, cosine(0.3, 0.0, step, 9), floor)
        else:
            world.sgd(world.masked(gradient))
        yield step + 1


def rigl_itop(world: World) -> Iterator[int]:
    """RigL-ITOP: step, then update with the gradient of that step; ceil, 0.5 to 0.005 over the whole run."""
    world.random_start(HALF)
    for step in range(1, STEPS + 1):
        gradient = world.gradient(world.w, step - 1)
        world.sgd(world.masked(gradient))
        if step % 3 == 0 and step < STEPS:
            grow_by_gradient(world, gradient, cosine(0.5, 0.005, step, STEPS), ceil)
        yield step


def dst_ee(world: World) -> Iterator[int]:
    """DST-EE: |g| + c ln(t) / (N + eps), N the masks so far that held the weight, the first among them."""
    world.random_start(HALF)
    times = {name: mask.double() for name, mask in world.m.items()}
    for step in range(1, STEPS + 1):
        gradient = world.gradient(world.w, step - 1)
        world.sgd(world.masked(gradient))
        if step % 3 == 0 and step < STEPS:

            def score(name: str, slope: Tensor, now: int = step, seen: dict[str, Tensor] = times) -> Tensor:
                return slope.abs() + 0.05 * math.log(now) / (seen[name] + 1.0)

            grow_by_gradient(world, gradient, cosine(0.5, 0.005, step, STEPS), floor, score)
            times = {name: times[name] + mask for name, mask in world.m.items()}
        yield step


def snfs(world: World) -> Iterator[int]:
    """Sparse momentum: drop ceil, regrow ceil(share of mean momentum) in each layer, by momentum magnitude."""
    world.random_start(HALF)
    momentum = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in SHAPES.items()}
    for step in range(1, STEPS + 1):
        gradient = world.gradient(world.w, step - 1)
        momentum = {name: 0.9 * momentum[name] + 0.1 * gradient[name] for name in SHAPES}
        world.sgd(world.masked(gradient))
        if step % 3 == 0 and step < STEPS:
            share = cosine(0.5, 0.005, step, STEPS)
            means = {name: float(momentum[name][mask].abs().mean()) for name, mask in world.m.items()}
            kept = {name: drop(world, name, ceil(share * int(mask.sum()))) for name, mask in world.m.items()}
            removed = sum(int(world.m[name].sum() - kept[name].sum()) for name in SHAPES)
            grown = {name: ceil(removed * means[name] / sum(means.values())) for name in SHAPES}
            grown = {name: min(n, floor(0.99 * int((~kept[name]).sum()))) for name, n in grown.items()}
            while sum(grown.values()) > removed:
                grown[max(grown, key=lambda name: grown[name])] -= 1
            world.adopt({n: kept[n] | largest(momentum[n].abs(), grown[n], ~kept[n]) for n in SHAPES})
        yield step


def dsr(world: World) -> Iterator[int]:
    """DSR: one threshold for all layers, regrowth by survivors, at random where nothing was just dropped."""
    world.random_start(HALF)
    threshold = 0.1
    for step in range(1, STEPS + 1):
        world.sgd(world.masked(world.gradient(world.w, step - 1)))
        if step % 3 == 0 and step <= 11 and step < STEPS:
            kept = {name: mask & (world.w[name].abs() >= threshold) for name, mask in world.m.items()}
            removed = 48 - sum(int(mask.sum()) for mask in kept.values())
            threshold = threshold / 2 if removed > 1.1 * 4.8 else threshold * 2 if removed < 0.9 * 4.8 else threshold
            stay = {name: int(mask.sum()) for name, mask in kept.items()}
            quota = {name: removed * stay[name] / sum(stay.values()) for name in SHAPES}
            grown = {name: floor(quota[name]) for name in SHAPES}
            while sum(grown.values()) < removed:  # largest remainders
                grown[max(SHAPES, key=lambda name: quota[name] - grown[name])] += 1
            new = {n: kept[n] | largest(draw("grow", step, n), grown[n], ~world.m[n]) for n in SHAPES}
            world.adopt(new, keep=kept)
        yield step


def deep_r(world: World) -> Iterator[int]:
    """DeepR as Mostafa and Wang run it: noise sqrt(2 * 0.01 * T) and pull in the gradient, death by change of sign."""
    world.random_start(HALF)
    sign = {name: torch.sign(world.w[name]) for name in SHAPES}
    for step in range(1, STEPS + 1):
        gradient = world.masked(world.gradient(world.w, step - 1))
        for name, mask in world.m.items() if step <= 11 else ():
            noise = torch.randn(int(mask.sum()), generator=generator(0, "walk", step, name)).double()
            temperature = 2.0 if step <= 6 else 0.5
            pull = 0.01 * torch.sign(world.w[name][mask])
            gradient[name][mask] += pull + math.sqrt(2 * 0.01 * temperature) * noise
        world.sgd(gradient)
        new, kept = {}, {}
        for name, mask in world.m.items():
            sign[name] = torch.where(sign[name] == 0, torch.sign(world.w[name]), sign[name]) * mask
            kept[name] = mask & ~(sign[name] * world.w[name] < 0)
            sign[name] = sign[name] * kept[name]
            dead = int(mask.sum() - kept[name].sum())
            new[name] = kept[name] | largest(draw("grow", step, name), dead, ~mask)
        if step <= 11 and step < STEPS:
            world.adopt(new, keep=kept)
        yield step


def mest(world: World) -> Iterator[int]:
    """MEST, EM: the largest first magnitudes; prune by |w| + lambda |g| to a lower density, grow at random."""
    world.adopt({name: largest(world.w[name].abs(), QUARTER[name]) for name in SHAPES})
    for step in range(1, STEPS + 1):
        gradient = world.gradient(world.w, step - 1)
        world.sgd(world.masked(gradient))
        if step in (3, 6, 7, 9):  # stages begin at 7 and 9
            share = 0.8 if step < 7 else 0.9 if step < 9 else 1.0
            new, kept = {}, {}
            for name, mask in world.m.items():
                lower = {0.8: {"0.weight": 13, "2.weight": 6}, 0.9: {"0.weight": 15, "2.weight": 7}, 1.0: QUARTER}[
                    share
                ]
                importance = world.w[name].abs() + 0.01 * gradient[name].abs()
                kept[name] = largest(importance, lower[name], mask)
                new[name] = kept[name] | largest(
                    draw("grow", step, name), QUARTER[name] - int(kept[name].sum()), ~kept[name]
                )
            world.adopt(new, keep=kept)
        yield step


def srigl(world: World) -> Iterator[int]:
    """SRigL: ablation against the fan-in before any, drops over the layer, growth within neurons to one fan-in."""
    first = {"0.weight": 4, "2.weight": 4}
    world.adopt({name: torch.stack([largest(row, first[name]) for row in draw("start", name)]) for name in SHAPES})
    for step in range(1, STEPS + 1):
        gradient = world.gradient(world.w, step - 1)
        world.sgd(world.masked(gradient))
        if step % 3 == 0 and step <= 9:
            new = {}
            for name, mask in world.m.items():
                rows, columns = mask.shape
                dropped = floor(cosine(0.3, 0.0, step, 9) * int(mask.sum()))
                survivors = drop(world, name, dropped)
                salient = survivors | largest(gradient[name].abs(), dropped, ~survivors)
                bar = max(1, floor(0.9 * first[name]))
                enough = [int(row.sum()) >= bar for row in salient]
                least = math.ceil(HALF[name] / columns)
                order = sorted(range(rows), key=lambda row, salient=salient: (-int(salient[row].sum()), row))
                alive = order[: max(least, sum(enough))] if name == "0.weight" else list(range(rows))
                fan_in = HALF[name] // len(alive)
                left = torch.zeros_like(mask)
                left[alive] = mask[alive]
                kept = largest(world.w[name].abs(), min(int(mask.sum()) - dropped, int(left.sum())), left)
                new[name] = torch.zeros_like(mask)
                for row in alive:
                    stay = largest(world.w[name][row].abs(), fan_in, kept[row])
                    more = fan_in - int(stay.sum())
                    new[name][row] = stay | largest(gradient[name][row].abs(), more, ~stay)
            world.adopt(new)
        yield step


def cht(world: World) -> Iterator[int]:
    """CHT: as SET, grown by CH3-L3 summed over paths; a layer stops when what it removes returns at once."""
    world.random_start(HALF)
    stopped = dict.fromkeys(SHAPES, False)
    for step in range(1, STEPS + 1):
        world.sgd(world.masked(world.gradient(world.w, step - 1)))
        if step % 3 == 0 and step <= 9:
            new = dict(world.m)
            for name, mask in world.m.items():
                if stopped[name]:
                    continue
                kept = drop(world, name, floor(cosine(0.3, 0.0, step, 9) * int(mask.sum())))
                score = paths(kept) + 1e-9 * draw("grow", step, name).double()
                new[name] = kept | largest(score, int(mask.sum() - kept.sum()), ~kept)
                removed = mask & ~kept
                stopped[name] = int((new[name] & removed).sum()) > 0.9 * int(removed.sum())
            world.adopt(new)
        yield step


def paths(links: Tensor) -> Tensor:
    """Sum 1 / sqrt((1 + e_a)(1 + e_b)) over the paths u - a - b - v of each missing link."""
    on = links.tolist()
    outputs, inputs = range(len(on)), range(len(on[0]))
    scores = torch.zeros(links.shape, dtype=torch.float64)
    for u in outputs:
        for v in (v for v in inputs if not on[u][v]):
            walk = [(a, b) for a in inputs for b in outputs if on[u][a] and on[b][a] and on[b][v]]
            mine, theirs = {a for a, _ in walk}, {b for _, b in walk}
            for a, b in walk:
                out_a = sum(on[o][a] for o in outputs if o != u and o not in theirs)
                out_b = sum(on[b][i] for i in inputs if i != v and i not in mine)
                scores[u, v] += 1 / math.sqrt((1 + out_a) * (1 + out_b))
    return scores
