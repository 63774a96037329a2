"""``sparsebench bench execution``: speed-up of sparse CPU products over the fastest dense ones."""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from sparsebench.app.cli.bench.options import CLOCKS
from sparsebench.app.cli.bench.protocol import interleave, ratio
from sparsebench.app.cli.bench.steps import (
    convolve,
    copy_masked,
    draw_masks,
    layer_pass,
    make_batch,
    make_network,
    predict,
    training_step,
)
from sparsebench.cost.flops import active_macs, dense_macs, layer_costs
from sparsebench.cost.speed import hardware
from sparsebench.execution import direct
from sparsebench.functional.distribution import erk, uniform
from sparsebench.functional.select import random_mask

Cases = dict[str, Callable[[], Any]]
Row = dict[str, Any]

LAYERS = ((64, 64, 32), (64, 128, 16), (128, 128, 16), (128, 256, 8), (256, 256, 8), (256, 512, 4), (512, 512, 4))
"""Input channels, output channels and map size of VGG-19's 3x3 convolutions, and below of its last ones."""
SMALLEST = (512, 512, 2)

SET_MLP = (3072, 4000, 1000, 4000, 10)
"""Widths of SET's multilayer perceptron for CIFAR-10 (Mocanu et al. 2018)."""
SET_EPSILON = 20.0
"""Its density is epsilon (inputs + outputs) / (inputs * outputs), at most 1."""


def main(options: argparse.Namespace, *, command: str) -> None:
    """Measure and print tables of ratios: dense over sparse, larger is better.

    Args:
        options: arguments parsed by ``options.execution``.
        command: the command line, to be recorded.

    Raises:
        ValueError: the kernels cannot be compiled here.
    """
    torch.set_num_threads(options.threads)
    if not direct.available():
        raise ValueError("the kernels cannot be compiled here, so there is nothing to measure: install g++")
    torch.manual_seed(0)
    measured: dict[str, list[Row]] = {}
    print(head(options), flush=True)
    for subject in options.what:
        measured[subject] = list(_SUBJECTS[subject](options))
        print(f"{subject}\n\n{table(measured[subject])}\n", flush=True)
    if options.json:
        said = {"command": command, "hardware": hardware(), "clock": options.clock, "rows": measured}
        options.json.write_text(json.dumps(said, indent=2, default=vars) + "\n", encoding="utf-8")


def layers(options: argparse.Namespace) -> Iterator[Row]:
    """Measure each of VGG-19's convolutions alone: forward, input gradient, full-shape weight gradient."""
    for channels, out, side in (*LAYERS, SMALLEST):
        for sparsity in options.sparsity:
            x, weight = torch.randn(options.batch, channels, side, side), torch.randn(out, channels, 3, 3)
            mask = random_mask(weight.shape, round((1 - sparsity) * weight.numel()), torch.Generator().manual_seed(0))
            inner = x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
            last = _last(x)
            cases = {
                "dense": layer_pass(convolve, x, weight),
                "dense again": layer_pass(convolve, x, weight),
                "dense, channels last": layer_pass(convolve, last, _last(weight)),
                "bfloat16": layer_pass(convolve, last.bfloat16(), _last(weight).bfloat16()),
                "direct": layer_pass(lambda a, b, m=mask: direct.conv2d(a, b, m, padding=1), inner, weight),
            }
            seconds = interleave(cases, rounds=options.rounds, device=x.device, clock=CLOCKS[options.clock])
            name = f"{channels} to {out}, {side}x{side}"
            yield {"layer": name, "sparsity": f"{sparsity:g}"} | compare(seconds, ("direct",))


def mlp(options: argparse.Namespace) -> Iterator[Row]:
    """Measure whole training steps of SET's perceptron at its own density: forward, backward, SGD with momentum."""
    nets = [nn.Linear(a, b) for a, b in pairwise(SET_MLP)]
    body = [module for layer in nets for module in (layer, nn.ReLU())][:-1]
    net = nn.Sequential(*body)
    masks: dict[str, Tensor] = {}
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Linear):
            out, inputs = layer.weight.shape
            count = min(out * inputs, round(SET_EPSILON * (out + inputs)))
            masks[f"{name}.weight"] = random_mask((out, inputs), count, torch.Generator().manual_seed(0))
    x, labels = torch.randn(options.batch, SET_MLP[0]), torch.randint(0, 10, (options.batch,))
    dense = training_step(net, x, labels)
    cases = {
        "dense": dense,
        "dense again": dense,
        "bfloat16": training_step(copy.deepcopy(net), x, labels, low=True),
        "direct": training_step(copy_masked(net, masks), x, labels, masks=masks, backend="direct"),
        "csr": training_step(copy_masked(net, masks), x, labels, masks=masks, backend="csr"),
        "direct, active weights stored": training_step(direct.store_active(copy.deepcopy(net), masks), x, labels),
    }
    seconds = interleave(cases, rounds=options.rounds, device=x.device, clock=CLOCKS[options.clock])
    density = sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())
    names = ("direct", "csr", "direct, active weights stored")
    for name in names:
        yield {"execution": name, "density": f"{density:.4f}"} | compare(seconds, (name,), label="sparse")


def network(options: argparse.Namespace) -> Iterator[Row]:
    """Measure whole training steps of a network: forward, backward, SGD with momentum and masked gradients."""
    for sparsity in options.sparsity:
        for spread in (uniform, erk):
            net = make_network(options)
            masks = draw_masks(net, 1 - sparsity, spread)
            x, labels = make_batch(options)
            last, bf = (copy.deepcopy(net).to(memory_format=torch.channels_last) for _ in range(2))
            images = _last(x)
            dense = training_step(net, x, labels)
            auto = training_step(copy_masked(net, masks), x, labels, masks=masks, backend="auto")
            cases = {
                "dense": dense,
                "dense again": dense,
                "dense, channels last": training_step(last, images, labels),
                "bfloat16": training_step(bf, images, labels, low=True),
                "direct": training_step(copy_masked(net, masks), x, labels, masks=masks, backend="direct"),
                "auto": auto,
            }
            seconds = interleave(cases, rounds=options.rounds, device=x.device, clock=CLOCKS[options.clock])
            costs = layer_costs(net, x[:1])
            share = active_macs(costs, {n: float(m.double().mean()) for n, m in masks.items()}) / dense_macs(costs)
            what = {"sparsity": f"{sparsity:g} {spread.__name__}", "FLOP density": f"{share:.3f}"}
            yield what | compare(seconds, ("direct", "auto"))


def inference(options: argparse.Namespace) -> Iterator[Row]:
    """Measure predictions of a network that stores only its active weights."""
    for sparsity in options.sparsity:
        for batch in (1, 64):
            net = make_network(options).eval()
            masks = draw_masks(net, 1 - sparsity, uniform)
            small = direct.store_active(copy_masked(net, masks), masks).eval()
            x = make_batch(options, batch)[0]
            last, images = copy.deepcopy(net).to(memory_format=torch.channels_last), _last(x)
            cases = {
                "dense": predict(net, x),
                "dense again": predict(net, x),
                "dense, channels last": predict(last, images),
                "bfloat16": predict(last, images, low=True),
                "direct": predict(small, x, layout=True),
            }
            seconds = interleave(cases, rounds=options.rounds, device=x.device, clock=CLOCKS[options.clock])
            yield {"sparsity": f"{sparsity:g} uniform", "batch": str(batch)} | compare(seconds, ("direct",))


_SUBJECTS: Mapping[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
    "layers": layers,
    "mlp": mlp,
    "network": network,
    "inference": inference,
}


def compare(seconds: Mapping[str, list[float]], names: tuple[str, ...], *, label: str = "") -> Row:
    """Return ratios of times: dense over sparse, against float32 (the faster layout) and bfloat16, and dense/dense."""
    dense = seconds["dense"]
    if "dense, channels last" in seconds:
        dense = [min(pair) for pair in zip(dense, seconds["dense, channels last"], strict=True)]
    row: Row = {
        "milliseconds, dense": f"{1000 * min(dense):.1f}",
        "dense / dense": ratio(seconds["dense"], seconds["dense again"]),
    }
    for name in names:
        said = label or name
        row[f"float32 / {said}"] = ratio(dense, seconds[name])
        row[f"bfloat16 / {said}"] = ratio(seconds["bfloat16"], seconds[name])
    return row


def _last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([str(cell) for cell in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def head(options: argparse.Namespace) -> str:
    """Return the hardware and settings of the numbers in one line."""
    machine = hardware()
    return (
        f"{options.model}, batch {options.batch}; {machine['cpu']}, {options.threads} thread(s), "
        f"{machine['cpu_capability']}, torch {machine['torch']}; {options.clock} clock, medians of {options.rounds} "
        f"rounds (range)\n"
    )
